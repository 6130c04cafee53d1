"""Events as services receive them: their identity, their payload, hostile messages."""

from typing import Any

import pytest

from marty_msf.core.errors import PoisonEvent
from marty_msf.core.event_identity import IDENTITY_BYTES
from marty_msf.core.user_values import keepable
from marty_msf.patterns.choreography.event import Received
from marty_msf.patterns.outbox.inbox import identity_of
from marty_msf.worker.kafka_input import Record

CONNECTION: Any = object()
HEADERS = {
    "ce_id": b"e1",
    "ce_type": b"order_created",
    "ce_source": b"/shop",
    "ce_time": b"2026-01-01T00:00:00Z",
    "ce_martysequence": b"7",
    "traceparent": b"00-1",
}


def record(value: bytes | None = b'{"a": 1}', key: bytes | None = b"o1", **headers: bytes) -> Record:
    return Record("orders", 3, 41, key, value, {**HEADERS, **headers}, 1000)


def test_an_event_of_a_relay_has_its_attributes_and_its_json() -> None:
    received = Received.of_record(record())
    event = received.event(CONNECTION)

    assert (received.source, received.event_id, received.type) == ("/shop", "e1", "order_created")
    assert (event.id, event.aggregate_id, event.sequence, event.data) == ("e1", "o1", 7, {"a": 1})
    assert event.headers["traceparent"] == "00-1"


def test_an_event_without_an_id_is_known_by_its_place() -> None:
    received = Received.of_record(record(ce_id=b""))

    assert (received.source, received.event_id) == ("kafka:orders/3", "41@1000")


def test_an_identity_of_any_length_fits_the_inbox() -> None:
    first, second = (Received.of_record(record(ce_id=b"x" * 5000 + end)) for end in (b"1", b"2"))

    assert len(first.event_id) < IDENTITY_BYTES
    assert first.event_id != second.event_id


def test_what_postgres_cannot_keep_as_text_is_left_out() -> None:
    received = Received.of_record(record(evil=b"\xff\0"))

    assert "\0" not in received.headers["evil"]


@pytest.mark.parametrize("name", ["ce_id", "ce_source"])
@pytest.mark.parametrize(("one", "other"), [(b"\xff", b"\xfe"), (b"a\0b", b"ab")])
def test_identities_that_are_no_text_stay_apart_also_as_the_handler_gets_them(
    name: str, one: bytes, other: bytes
) -> None:
    received = [Received.of_record(record(**{name: value})) for value in (one, other)]
    events = [it.event(CONNECTION) for it in received]

    assert received[0] != received[1]
    assert all(keepable(it.event_id) and keepable(it.source) for it in received)
    assert [identity_of(it) for it in events] == [(it.source, it.event_id) for it in received]


def test_an_event_without_an_id_is_apart_from_one_at_the_same_offset_of_another_partition() -> None:
    headers = {"ce_source": b"/shop"}
    events = [
        Received.of_record(Record("orders", partition, 0, None, b"", headers, 7)).event(CONNECTION)
        for partition in (0, 1)
    ]

    assert identity_of(events[0]) == ("kafka:orders/0", "0@7")
    assert identity_of(events[0]) != identity_of(events[1])


@pytest.mark.parametrize("value", [b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_json_is_poison(value: bytes) -> None:
    with pytest.raises(PoisonEvent, match="no JSON"):
        Received.of_record(record(value)).event(CONNECTION)


def test_a_payload_of_another_type_is_handed_on_as_it_is() -> None:
    event = Received.of_record(record(b"\xff", **{"content-type": b"application/avro"})).event(CONNECTION)

    assert (event.data, event.payload) == (None, b"\xff")


@pytest.mark.parametrize("key", [None, b"o1", b"\xff"])
def test_a_parked_event_comes_back_as_it_was(key: bytes | None) -> None:
    received = Received.of_record(record(key=key))

    assert Received.of_parked(received.parked(3, "it failed")) == received
