"""CloudEvents 1.0 in Kafka's binary mode: the attributes of an event as message headers, out and in. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import quote

import orjson

Headers: TypeAlias = list[tuple[str, bytes]]

#: Position of the event in its key's order: lets consumers discard what arrives late or twice, by (key, sequence).
SEQUENCE: Final = "ce_martysequence"
CONTENT_TYPE: Final = "content-type"

_SPEC_VERSION: Final = ("ce_specversion", b"1.0")
_JSON: Final = (CONTENT_TYPE, b"application/json")


@lru_cache(maxsize=4096)
def source(database: str, aggregate_type: str) -> tuple[str, bytes]:
    """The header for `/marty/<database>/<aggregate type>`, percent-encoded: where the event came from."""
    return ("ce_source", f"/marty/{quote(database, safe='')}/{quote(aggregate_type, safe='')}".encode())


@lru_cache(maxsize=4096)
def _type(event_type: str) -> tuple[str, bytes]:
    return ("ce_type", event_type.encode())


@lru_cache(maxsize=64)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def timestamp(micros: int) -> bytes:
    """RFC 3339 in UTC. Events come in runs of the same second, whose text is remembered."""
    second, rest = divmod(micros, 1_000_000)
    return b"%b.%06dZ" % (_second(second), rest)


def headers(
    event_id: str,
    event_type: str,
    event_source: tuple[str, bytes],
    subject: bytes | None,
    time: int,
    sequence: int | None,
    own: str | None,
) -> Headers:
    """The headers of one message; `time` is in microseconds since the epoch.

    Without an aggregate there is no `subject`, without an order no `sequence`. `own` is a JSON object of further headers,
    whose content-type replaces the default.

    Runs once per event and is most of what encoding costs, hence the cached pairs and the list built at once.
    """
    attributes = [
        _SPEC_VERSION,
        ("ce_id", event_id.encode()),
        _type(event_type),
        event_source,
        ("ce_time", timestamp(time)),
        _JSON,
    ]
    if subject is not None:
        attributes.append(("ce_subject", subject))
    if sequence is not None:
        attributes.append((SEQUENCE, b"%d" % sequence))
    if own is not None:
        more: dict[str, str] = orjson.loads(own)
        if CONTENT_TYPE in map(str.lower, more):
            attributes.remove(_JSON)
        attributes.extend((name, value.encode()) for name, value in more.items())
    return attributes


@dataclass(frozen=True, slots=True)
class Envelope:
    """The attributes of a received event; those a foreign producer left out are empty, or None."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    sequence: int | None


def envelope(received: Mapping[str, bytes | None]) -> Envelope:
    """Read the attributes from a message's headers.

    Kafka allows a header without a value: it counts as left out. Bytes that are no UTF-8 are replaced, a sequence that
    is no number is None.
    """
    text = {
        name: value.decode(errors="replace") for name, value in received.items() if value and name.startswith("ce_")
    }
    sequence = text.get(SEQUENCE, "")
    return Envelope(
        id=text.get("ce_id", ""),
        type=text.get("ce_type", ""),
        source=text.get("ce_source", ""),
        subject=text.get("ce_subject", ""),
        time=text.get("ce_time", ""),
        sequence=int(sequence) if sequence.isascii() and sequence.isdecimal() and len(sequence) < 20 else None,
    )
