"""CloudEvents 1.0 in Kafka's binary mode: the attributes of an event as message headers, out and in. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
def source(database: str, aggregate_type: str) -> bytes:
    """`/marty/<database>/<aggregate type>`, percent-encoded: where the event came from."""
    return f"/marty/{quote(database, safe='')}/{quote(aggregate_type, safe='')}".encode()


@lru_cache(maxsize=4096)
def _type(event_type: str) -> tuple[str, bytes]:
    return ("ce_type", event_type.encode())


def headers(
    *,
    event_id: str,
    event_type: str,
    event_source: bytes,
    subject: bytes,
    time: datetime,
    sequence: int,
    own: str | None,
) -> Headers:
    """The headers of one message; `own` is a JSON object of further headers, whose content-type replaces the default."""
    attributes = [
        _SPEC_VERSION,
        ("ce_id", event_id.encode()),
        _type(event_type),
        ("ce_source", event_source),
        ("ce_subject", subject),
        ("ce_time", time.isoformat().encode()),
        (SEQUENCE, b"%d" % sequence),
    ]
    if own is None:
        attributes.append(_JSON)
        return attributes
    more: dict[str, str] = orjson.loads(own)
    if CONTENT_TYPE not in map(str.lower, more):
        attributes.append(_JSON)
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


def envelope(received: Mapping[str, bytes]) -> Envelope:
    """Read the attributes from a message's headers; bytes that are no UTF-8 are replaced, a sequence that is no number is None."""
    text = {name: value.decode(errors="replace") for name, value in received.items() if name.startswith("ce_")}
    sequence = text.get(SEQUENCE, "")
    return Envelope(
        id=text.get("ce_id", ""),
        type=text.get("ce_type", ""),
        source=text.get("ce_source", ""),
        subject=text.get("ce_subject", ""),
        time=text.get("ce_time", ""),
        sequence=int(sequence) if sequence.isascii() and sequence.isdecimal() and len(sequence) < 20 else None,
    )
