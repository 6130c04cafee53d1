"""By what an event is known to those who handle it, however often Kafka delivers it. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

#: What is longer is replaced by its hash.
IDENTITY_BYTES: Final = 512
#: The headers that are an identity: of these nothing may be lost.
HEADERS: Final = frozenset({"ce_id", "ce_source"})


class Identity(NamedTuple):
    """An event's source and its id there."""

    source: str
    event_id: str


def of_headers(headers: Mapping[str, str]) -> Identity | None:
    """CloudEvents' identity, which is both of them; None without `ce_id` or `ce_source`: other producers use the same ids."""
    source, event_id = headers.get("ce_source", ""), headers.get("ce_id", "")
    return of_event(source, event_id) if source and event_id else None


def of_event(source: str, event_id: str) -> Identity:
    """What the sender calls it."""
    return Identity(_kept(source), _kept(event_id))


def of_place(topic: str, partition: int, offset: int, timestamp_ms: int) -> Identity:
    """A message without an id: its place in Kafka, which no producer repeats."""
    return Identity(_kept(f"kafka:{topic}/{partition}"), f"{offset}@{timestamp_ms}")


def text(value: bytes) -> str:
    """A header's value as Postgres can keep it; not for an identity: different values may become the same."""
    return value.decode(errors="replace").replace("\0", "")


def exact(value: bytes) -> str:
    """A part of an identity as text that Postgres can keep, different for different bytes: the hash of what is no such text."""
    try:
        name = value.decode()
    except UnicodeDecodeError:
        return _hashed(value)
    return _hashed(value) if "\0" in name else name


def _kept(name: str) -> str:
    # Half a surrogate pair, which a client may have made of bytes, has bytes of its own here.
    encoded = name.encode(errors="surrogatepass")
    return exact(encoded) if len(encoded) <= IDENTITY_BYTES else _hashed(encoded)


def _hashed(value: bytes) -> str:
    return f"sha256:{hashlib.sha256(value).hexdigest()}"
