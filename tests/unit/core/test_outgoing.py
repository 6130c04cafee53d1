"""What may go into the outbox, and how it is refused: by path, value and remedy, before the database is asked."""

import dataclasses
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
import pytest
from pydantic import BaseModel

from marty_msf.core.errors import InvalidEvent, PayloadTooLarge
from marty_msf.core.json_payload import encode
from marty_msf.core.outgoing import HEADERS_BYTES, PAYLOAD_BYTES, EventPriority, outgoing


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    price: Decimal


@dataclasses.dataclass
class Line:
    sku: str
    _batch: int = 7


class Measured(BaseModel):
    grams: float


class Range(Enum):
    OPEN = (0, math.inf)


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("not now")


def event(**given: Any) -> Any:
    return outgoing(**{"topic": "order.events", "event_type": "created", "payload": {}, **given})


def test_values_that_json_has_no_word_for_are_written_without_loss() -> None:
    payload = {
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "local": datetime(2026, 1, 2, 3, 4, 5, 678),  # noqa: DTZ001
        "day": date(2026, 1, 2),
        "total": Decimal("10.10"),
        "id": UUID(int=7),
        "colour": Colour.RED,
        "line": Line("a"),
        "model": Model(price=Decimal("1.50")),
        "frozen": MappingProxyType({"a": 1}),
        "pair": (1, None),
    }
    assert orjson.loads(encode(payload)) == {
        "at": "2026-01-02T03:04:05+00:00",
        "local": "2026-01-02T03:04:05.000678",
        "day": "2026-01-02",
        "total": "10.10",
        "id": "00000000-0000-0000-0000-000000000007",
        "colour": "red",
        "line": {"sku": "a", "_batch": 7},
        "model": {"price": "1.50"},
        "frozen": {"a": 1},
        "pair": [1, None],
    }


itself: dict[str, Any] = {}
itself["again"] = [itself]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"items": [{"price": 1j}]}, r"^payload\.items\[0\]\.price: 1j is no JSON value: give JSON values"),
        ({"a": {1: 2}}, r"^payload\.a: its key 1 is no text"),
        ({"odd key": b"x"}, r"^payload\['odd key'\]: b'x' is no JSON value"),
        ({"a": math.nan}, r"^payload\.a: nan is no number in JSON"),
        ({"a": Measured(grams=math.nan)}, r"^payload\.a\.grams: nan is no number in JSON"),
        ({"a": Range.OPEN}, r"^payload\.a\[1\]: inf is no number in JSON"),
        ({"a": Unspeakable()}, r"^payload\.a: a Unspeakable is no JSON value"),
        ({"a": [None, -math.inf]}, r"^payload\.a\[1\]: -inf is no number"),
        ({"a": 2**70}, r"^payload\.a: 1180591620717411303424: Integer exceeds"),
        ({"a": "\ud800"}, r"^payload\.a: '\\ud800': "),
        ({"a": {1, 2}}, r"^payload\.a: \{1, 2\} is no JSON value"),
        ({"line": Line(b"x")}, r"^payload\.line\.sku: b'x'"),  # type: ignore[arg-type]
        (itself, "nested too deeply, or contains itself"),
        (None, "^payload: is missing"),
        ('{"a": 1}', "^payload: is text.*bytes that are sent as they are"),
    ],
)
def test_a_payload_that_is_no_json_is_refused_by_its_path(payload: Any, said: str) -> None:
    with pytest.raises(InvalidEvent, match=said):
        event(payload=payload)


def test_null_in_a_payload_is_no_error() -> None:
    assert event(payload={"a": None, "b": "null"}).payload == b'{"a":null,"b":"null"}'


def test_the_limit_is_of_bytes_and_advises_to_send_an_identifier() -> None:
    assert len(event(payload=b"x" * PAYLOAD_BYTES).payload) == PAYLOAD_BYTES
    with pytest.raises(PayloadTooLarge, match=r"^payload: a payload of 900001 bytes is over.*send an identifier"):
        event(payload=bytearray(PAYLOAD_BYTES + 1))
    with pytest.raises(PayloadTooLarge, match="of JSON"):
        event(payload={"a": "ü" * (PAYLOAD_BYTES // 2)})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"topic": ""}, "^topic: '' is no Kafka topic name"),
        ({"topic": "a b"}, "^topic: 'a b'"),
        ({"topic": ".."}, "^topic: '..'"),
        ({"topic": "a" * 250}, "^topic: .*1 to 249"),
        ({"topic": "a\n"}, "^topic: "),
        ({"topic": None}, "^topic: None"),
        ({"topic": "__consumer_offsets"}, "^topic: '__consumer_offsets' is Kafka's own.*: use another topic"),
        ({"event_type": ""}, "^event_type: '' has 0 bytes: give 1 to 200"),
        ({"event_type": "ü" * 101}, "^event_type: .* has 202 bytes"),
        ({"event_type": "a\0"}, "^event_type: .* NUL"),
        ({"aggregate_type": None}, "^aggregate_type: None is no text"),
        ({"aggregate_id": ""}, "^aggregate_id: '' has 0 bytes: give 1 to 512"),
        ({"aggregate_id": True}, "^aggregate_id: True is no text"),
        ({"aggregate_id": "\udfff"}, "^aggregate_id: .* surrogate"),
        ({"key": "k" * 513}, "^key: "),
        ({"key": b"k"}, "^key: b'k' is no text"),
        ({"priority": "urgent"}, "^priority: 'urgent' is unknown: use EventPriority.HIGH"),
        ({"priority": 2}, "^priority: 2"),
        ({"max_delivery_attempts": 0}, "^max_delivery_attempts: 0 is no number from 1 to 1000"),
        ({"max_delivery_attempts": -1}, "^max_delivery_attempts: -1"),
        ({"max_delivery_attempts": True}, "^max_delivery_attempts: True"),
        ({"deliver_after": datetime(2026, 1, 1)}, "^deliver_after: .* no time with a time zone"),  # noqa: DTZ001
        ({"deliver_after": timedelta(1)}, "^deliver_after: "),
        ({"deliver_after": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "^deliver_after: .* beyond"),
        *(
            (
                {"deliver_after": time},
                "^deliver_after: .* is beyond the years 2 to 9998 in UTC: give a time that can come",
            )
            for time in (
                datetime.max.replace(tzinfo=UTC),
                datetime.min.replace(tzinfo=UTC),
                datetime(9999, 1, 1, tzinfo=UTC),
                datetime(1, 12, 31, 23, 59, 59, tzinfo=UTC),
            )
        ),
        *(
            (
                {"headers": {name: trace}},
                rf"^headers\['{name}'\]: .* is no W3C traceparent: give 00-<32 hex.*leave it out",
            )
            for name in ("traceparent", "Traceparent")
            for trace in ("garbage", "", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'A' * 32}-{'1' * 16}-01")
        ),
        ({"event_type": Unspeakable()}, "^event_type: a Unspeakable is no text"),
        ({"headers": ["a"]}, r"^headers: \['a'\] is no mapping"),
        ({"headers": {"a b": "c"}}, "^headers: 'a b' is no header's name"),
        ({"headers": {"CE_id": "c"}}, r"^headers\['CE_id'\]: names that begin with ce_"),
        ({"headers": {"a": b"c"}}, r"^headers\['a'\]: b'c' is no text"),
        ({"headers": {"a": 1}}, r"^headers\['a'\]: 1 is no text"),
        ({"headers": {"a": "\0"}}, r"^headers\['a'\]: .*NUL"),
        ({"headers": {"a": "x" * HEADERS_BYTES}}, "^headers: 1639[0-9] bytes are over"),
    ],
)
def test_everything_else_is_refused_by_its_name_too(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidEvent, match=said):
        event(**given)


def test_ids_become_text_and_priorities_may_be_written() -> None:
    assert event(aggregate_id=UUID(int=1)).aggregate_id == "00000000-0000-0000-0000-000000000001"
    assert event(aggregate_id=0).aggregate_id == "0"
    assert event(priority="high").priority == EventPriority.HIGH.value
    assert type(event(event_type=EventPriority.LOW).event_type) is str


def test_a_trace_is_sent_in_the_form_that_every_reader_knows() -> None:
    trace = f"00-{'a' * 32}-{'1' * 16}-01"
    for text in (trace, f" {trace}", trace.replace("00-", "cc-", 1) + "-more"):
        assert orjson.loads(event(headers={"traceparent": text, "tracestate": "x"}).headers) == {
            "traceparent": trace,
            "tracestate": "x",
        }
