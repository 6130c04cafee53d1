"""By what an event is known to those who handle it, however often Kafka delivers it. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

#: What is longer is replaced by its hash.
IDENTITY_BYTES: Final = 512


class Identity(NamedTuple):
    """An event's source and its id there."""

    source: str
    event_id: str


def of_headers(headers: Mapping[str, str]) -> Identity | None:
    """CloudEvents' identity; None without `ce_id`."""
    event_id = headers.get("ce_id", "")
    return of_event(headers.get("ce_source", ""), event_id) if event_id else None


def of_event(source: str, event_id: str) -> Identity:
    """What the sender calls it."""
    return Identity(_short(source), _short(event_id))


def of_place(topic: str, partition: int, offset: int, timestamp_ms: int) -> Identity:
    """A message without an id: its place in Kafka, which no producer repeats."""
    return Identity(_short(f"kafka:{topic}/{partition}"), f"{offset}@{timestamp_ms}")


def text(value: bytes) -> str:
    """A header's value as Postgres can keep it."""
    return value.decode(errors="replace").replace("\0", "")


def _short(name: str) -> str:
    encoded = name.encode(errors="replace")
    if len(encoded) <= IDENTITY_BYTES:
        return name
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"
