"""An event on its way into the outbox, checked as `marty.enqueue_event` checks it, before the database is asked. Pure.

A refusal by the database would abort the caller's transaction; one by these functions leaves it as it was.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from marty_msf.core.errors import InvalidEvent, PayloadTooLarge
from marty_msf.core.json_payload import encode, shown
from marty_msf.core.trace import TRACEPARENT, parsed

PAYLOAD_BYTES: Final = 900_000
TYPE_BYTES: Final = 200
ID_BYTES: Final = 512
HEADERS_BYTES: Final = 16_384
MOST_ATTEMPTS: Final = 1000
#: Of a time, in UTC. Python's first and last moment are infinity for asyncpg, and near them no other zone has a time.
FIRST_YEAR: Final = 2
LAST_YEAR: Final = 9998
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_HEADER: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
#: Topics that Kafka keeps for itself, where it lets nobody else write.
KAFKAS_OWN: Final = frozenset(
    {"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"}
)
SHOWN_CHARACTERS: Final = 100


class EventPriority(StrEnum):
    """Which events go first when many wait; never within one aggregate."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Outgoing(NamedTuple):
    """What is written, in the order of marty.enqueue_event_bytes's arguments."""

    topic: str
    event_type: str
    payload: bytes
    #: None: the event has no order.
    aggregate_id: str | None
    aggregate_type: str
    #: A JSON object of text values.
    headers: str
    priority: str
    #: None: what the relay is set to.
    max_delivery_attempts: int | None
    #: None: at once.
    deliver_after: datetime | None
    #: None: Kafka's key is the aggregate id.
    message_key: str | None


def outgoing(
    *,
    topic: object,
    event_type: object,
    payload: object,
    aggregate_id: object = None,
    aggregate_type: object = "",
    priority: object = EventPriority.NORMAL,
    max_delivery_attempts: object = None,
    headers: object = None,
    key: object = None,
    deliver_after: object = None,
    at: str = "",
) -> Outgoing:
    """The event, if it can be published. `at` stands before the paths in errors. Raises InvalidEvent."""
    if isinstance(aggregate_id, UUID) or (isinstance(aggregate_id, int) and not isinstance(aggregate_id, bool)):
        aggregate_id = str(aggregate_id)
    return Outgoing(
        _topic(topic, f"{at}topic"),
        _text(event_type, f"{at}event_type", TYPE_BYTES),
        _payload(payload, f"{at}payload"),
        None if aggregate_id is None else _text(aggregate_id, f"{at}aggregate_id", ID_BYTES),
        _text(aggregate_type, f"{at}aggregate_type", TYPE_BYTES, least=0),
        encoded_headers(headers, f"{at}headers"),
        _priority(priority, f"{at}priority"),
        _attempts(max_delivery_attempts, f"{at}max_delivery_attempts"),
        _time(deliver_after, f"{at}deliver_after"),
        None if key is None else _text(key, f"{at}key", ID_BYTES),
    )


def _payload(payload: object, path: str) -> bytes:
    if payload is None or isinstance(payload, str):
        kind = "is missing" if payload is None else "is text, which could be JSON or be meant to become JSON"
        raise InvalidEvent(f"{path}: {kind}: give a mapping, or bytes that are sent as they are")
    as_it_is = isinstance(payload, bytes | bytearray | memoryview)
    encoded = bytes(payload) if isinstance(payload, bytes | bytearray | memoryview) else encode(payload, path)
    if len(encoded) > PAYLOAD_BYTES:
        raise PayloadTooLarge(
            f"{path}: a payload of {len(encoded)} bytes{'' if as_it_is else ' of JSON'} is over the limit of {PAYLOAD_BYTES}: "
            "store the document elsewhere and send an identifier of it"
        )
    return encoded


def _topic(topic: object, path: str) -> str:
    if isinstance(topic, str) and _TOPIC.fullmatch(topic) and topic not in (".", ".."):
        if topic in KAFKAS_OWN:
            raise InvalidEvent(
                f"{path}: {_shown(topic)} is Kafka's own, where nobody else may write: use another topic"
            )
        return topic
    raise InvalidEvent(
        f"{path}: {_shown(topic)} is no Kafka topic name: use 1 to 249 letters, digits, dots, underscores and hyphens"
    )


def _text(text: object, path: str, most: int, least: int = 1) -> str:
    if not isinstance(text, str):
        raise InvalidEvent(f"{path}: {_shown(text)} is no text: give {least} to {most} bytes of text")
    if problem := _unstorable(text):
        raise InvalidEvent(f"{path}: {_shown(text)} has {problem}: leave it out")
    if not least <= len(text.encode()) <= most:
        raise InvalidEvent(
            f"{path}: {_shown(text)} has {len(text.encode())} bytes: give {least} to {most} bytes of text"
        )
    # A member of a StrEnum too becomes plain text: drivers look at the type.
    return str(text)


def _unstorable(text: str) -> str:
    if "\0" in text:
        return "a NUL character, which Postgres cannot keep"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair, which is no character"
    return ""


def encoded_headers(headers: object, path: str = "headers") -> str:
    """Further headers as a JSON object. Raises InvalidEvent."""
    if headers is None:
        return "{}"
    if not isinstance(headers, Mapping):
        raise InvalidEvent(f"{path}: {_shown(headers)} is no mapping: give names and text values")
    found: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise InvalidEvent(
                f"{path}: {_shown(name)} is no header's name: use 1 to 100 letters, digits, dots, underscores and hyphens"
            )
        if name.lower().startswith("ce_"):
            raise InvalidEvent(f"{path}[{name!r}]: names that begin with ce_ are the relay's: choose another name")
        if not isinstance(value, str):
            raise InvalidEvent(f"{path}[{name!r}]: {_shown(value)} is no text: write the value as text")
        if problem := _unstorable(value):
            raise InvalidEvent(f"{path}[{name!r}]: {_shown(value)} has {problem}: leave it out")
        found[str(name)] = traceparent(value, f"{path}[{name!r}]") if name.lower() == TRACEPARENT else str(value)
    encoded = orjson.dumps(found).decode()
    # As Postgres writes it: with a space behind each colon and comma.
    size = len(encoded.encode()) + max(2 * len(found) - 1, 0)
    if size > HEADERS_BYTES:
        raise InvalidEvent(f"{path}: {size} bytes are over the limit of {HEADERS_BYTES}: put the data into the payload")
    return encoded


def traceparent(text: str, path: str = "traceparent") -> str:
    """A trace in the form of version 00. Raises InvalidEvent: whoever reads the event would drop what is none."""
    if (trace := parsed(text)) is None:
        raise InvalidEvent(
            f"{path}: {_shown(text)} is no W3C traceparent: give 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, "
            "or leave it out"
        )
    return trace


def _priority(priority: object, path: str) -> str:
    try:
        return EventPriority(priority).value  # type: ignore[arg-type]  # refuses what is none
    except ValueError:
        raise InvalidEvent(f"{path}: {_shown(priority)} is unknown: use EventPriority.HIGH, NORMAL or LOW") from None


def _attempts(attempts: object, path: str) -> int | None:
    if attempts is None:
        return None
    if isinstance(attempts, int) and not isinstance(attempts, bool) and 1 <= attempts <= MOST_ATTEMPTS:
        return attempts
    raise InvalidEvent(
        f"{path}: {_shown(attempts)} is no number from 1 to {MOST_ATTEMPTS}: correct it, or leave it out"
    )


def _time(time: object, path: str) -> datetime | None:
    if time is None:
        return None
    if isinstance(time, datetime) and time.tzinfo is not None:
        with suppress(OverflowError):
            # Drivers do so too, and would fail in the caller's transaction.
            utc = time.astimezone(UTC)
            if FIRST_YEAR <= utc.year <= LAST_YEAR:
                return utc
        raise InvalidEvent(
            f"{path}: {_shown(time)} is beyond the years {FIRST_YEAR} to {LAST_YEAR} in UTC: give a time that can come, or "
            "leave it out for at once"
        )
    raise InvalidEvent(f"{path}: {_shown(time)} is no time with a time zone: give datetime.now(UTC) + timedelta(…)")


def _shown(value: Any) -> str:
    return shown(value, SHOWN_CHARACTERS)
