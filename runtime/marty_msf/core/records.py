"""Kafka's record format, version 2, as far as writing needs it. Pure.

https://kafka.apache.org/documentation/#recordbatch. Lengths are zigzag varints; those that occur are looked up. A record
is written in two parts: its tail (key, value, headers), which can be made ahead, and its head, which depends on its place
in the batch. All records of a batch bear the batch's time.
"""

from collections.abc import Iterable, Sequence
from typing import Final

_LOOKED_UP: Final = 16_384


def _encode(number: int) -> bytes:
    zigzag = number << 1 if number >= 0 else (-number << 1) - 1
    found = bytearray()
    while zigzag > 0x7F:
        found.append(0x80 | (zigzag & 0x7F))
        zigzag >>= 7
    found.append(zigzag)
    return bytes(found)


#: The varints of 0, 1, 2, …: a look-up costs a tenth of an encoding.
VARINTS: Final[Sequence[bytes]] = [_encode(number) for number in range(_LOOKED_UP)]
_ABSENT: Final = _encode(-1)


def varint(number: int) -> bytes:
    """Of a number that is not negative."""
    return VARINTS[number] if number < _LOOKED_UP else _encode(number)


def field(content: bytes | None) -> bytes:
    """Length and content; None is not the same as empty."""
    return _ABSENT if content is None else varint(len(content)) + content


def header(name: str, value: bytes) -> bytes:
    """One header."""
    return field(name.encode()) + field(value)


def header_start(name: str, length: int | None = None) -> bytes:
    """A header up to its value, whose length is fixed, or up to the value's length."""
    return field(name.encode()) + (b"" if length is None else varint(length))


def tail(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> bytes:
    """A record behind its place in the batch."""
    return b"".join(
        (field(key), field(value), varint(len(headers)), *(header(name, content) for name, content in headers))
    )


def records(tails: Iterable[bytes]) -> bytes:
    """The records of a batch, in order."""
    parts: list[bytes] = []
    for offset, part in enumerate(tails):
        place = varint(offset)
        # attributes and time difference are a zero byte each.
        parts += (varint(2 + len(place) + len(part)), b"\x00\x00", place, part)
    return b"".join(parts)


#: Bytes of a record before its tail at most, for batches of up to a million records.
HEAD_BYTES: Final = 10
