"""By what a message is known, whichever client read it."""

from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from marty_msf.core.errors import InvalidDefinition, InvalidEvent
from marty_msf.patterns.choreography import Event
from marty_msf.patterns.outbox import Inbox
from marty_msf.patterns.outbox.inbox import identity_of

PAIRS = [("ce_source", b"/shop"), ("ce_id", b"e-1"), ("other", None)]


class ConfluentMessage:
    """As confluent-kafka has it: methods."""

    def __init__(self, headers: Any) -> None:
        self._headers = headers

    def headers(self) -> Any:
        return self._headers

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 7

    def timestamp(self) -> tuple[int, int]:
        return 1, 1700


def aiokafka(headers: Any) -> Any:
    return ConsumerRecord("orders", 3, 7, 1700, 0, None, b"", None, 0, 0, headers)


def event() -> Event:
    return Event("e-1", "t", "/shop", "a", "", None, {}, None, b"", None)


@pytest.mark.parametrize(
    "message",
    [PAIRS, tuple(PAIRS), dict(PAIRS), {"ce_source": "/shop", "ce_id": "e-1"}, event(), aiokafka(PAIRS), ConfluentMessage(PAIRS)],
)  # fmt: skip
def test_the_headers_say_who_an_event_is(message: Any) -> None:
    assert identity_of(message) == ("/shop", "e-1")


@pytest.mark.parametrize(
    ("one", "other"), [(b"\xff", b"\xfe"), (b"\0z", b"z"), ("\ud800", "?"), ("\0z", "z"), (b"\xff", "�")]
)
@pytest.mark.parametrize("kind", [dict, aiokafka, ConfluentMessage])
def test_ids_that_no_text_can_hold_stay_apart(kind: Any, one: Any, other: Any) -> None:
    shop = ("ce_source", b"/shop")
    assert identity_of(kind([("ce_id", one), shop])) != identity_of(kind([("ce_id", other), shop]))


def test_an_id_in_a_buffer_is_its_bytes() -> None:
    made = [identity_of([("ce_id", kind(b"e-1")), ("ce_source", b"/shop")]) for kind in (memoryview, bytearray)]
    assert made == [("/shop", "e-1")] * 2


@pytest.mark.parametrize(
    "message",
    [
        aiokafka(()),
        ConfluentMessage(None),
        ConfluentMessage([("ce_id", b"")]),
        # Two producers may use one id.
        aiokafka([("ce_id", b"e-1")]),
        ConfluentMessage([("ce_source", b"/shop")]),
    ],
)
def test_a_message_without_an_id_is_known_by_its_place(message: Any) -> None:
    assert identity_of(message) == ("kafka:orders/3", "7@1700")


@pytest.mark.parametrize("message", [{}, [], {"ce_source": "/shop"}, None, object()])
def test_headers_without_an_id_are_refused_with_what_to_do(message: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"^headers\.ce_id: is missing.*give the Kafka message itself"):
        identity_of(message)


def test_headers_without_a_source_are_refused() -> None:
    with pytest.raises(InvalidEvent, match=r"^headers\.ce_source: is missing"):
        identity_of({"ce_id": "e-1"})


@pytest.mark.parametrize("message", ["", "ce_id", b"x", [("ce_id",)], [7], aiokafka(5), ConfluentMessage("ce_id")])
def test_what_is_no_headers_is_refused(message: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"^headers: a .* is no mapping and no pairs: give the Kafka message"):
        identity_of(message)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (("a b",), "consumer"),
        ((None,), "consumer"),
        *((("a", hours), "remember_hours") for hours in (0, "1", True, 876_001)),
    ],
)
def test_an_inbox_has_a_name_and_a_number_of_hours(given: tuple[Any, ...], path: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        Inbox(given[0], **({"remember_hours": given[1]} if len(given) > 1 else {}))
    assert refused.value.path == path


@pytest.mark.parametrize("limit", [0, -1, True, "5", 1.5, 10_000_001])
async def test_a_number_of_events_to_forget_is_one(limit: Any) -> None:
    with pytest.raises(InvalidDefinition, match=r"^limit: .* is no whole number from 1 to"):
        await Inbox("stock").prune(None, limit)
