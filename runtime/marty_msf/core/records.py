"""Kafka's record format, version 2, as far as writing needs it. Pure.

https://kafka.apache.org/documentation/#recordbatch. Lengths are zigzag varints; those that occur are looked up. A record
is written in two parts: its tail (key, value, headers), which can be made ahead, and its head, which depends on its place
in the batch. All records of a batch bear the batch's time.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
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


#: Offsets below take one byte, and below the second number two.
_NEAR: Final = 64
_FAR: Final = 8192
_ZEROS: Final = b"\x00\x00"  # attributes and time difference
#: By the length of a tail: what stands before the place of a near record, and before that of a far one.
_NEAR_HEADS: Final = [varint(3 + length) + _ZEROS for length in range(_LOOKED_UP)]
_FAR_HEADS: Final = [varint(4 + length) + _ZEROS for length in range(_LOOKED_UP)]
_FAR_PLACES: Final = VARINTS[_NEAR:_FAR]


def records(tails: Sequence[bytes]) -> bytes:
    """The records of a batch, in order."""
    if len(tails) > _FAR or max(map(len, tails), default=0) >= _LOOKED_UP:
        return _records(tails)
    # What runs for every event of a relay: nothing here is a step of Python's own per record.
    near, far = tails[:_NEAR], tails[_NEAR:]
    return b"".join(
        chain(
            chain.from_iterable(zip(map(_NEAR_HEADS.__getitem__, map(len, near)), VARINTS, near, strict=False)),
            chain.from_iterable(zip(map(_FAR_HEADS.__getitem__, map(len, far)), _FAR_PLACES, far, strict=False)),
        )
    )


def _records(tails: Iterable[bytes]) -> bytes:
    """The same for any lengths and numbers."""
    parts: list[bytes] = []
    for offset, part in enumerate(tails):
        place = varint(offset)
        parts += (varint(2 + len(place) + len(part)), _ZEROS, place, part)
    return b"".join(parts)


#: Bytes of a record before its tail at most, for batches of up to a million records.
HEAD_BYTES: Final = 10
