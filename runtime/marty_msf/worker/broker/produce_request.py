"""Kafka's produce request, written at once.

aiokafka writes a request level by level, and copies the record batches at each: nine times all that a relay sends.
https://kafka.apache.org/protocol.html#The_Messages_Produce, versions 3 to 7.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiokafka.protocol.produce import ProduceRequest

#: Those with the field transactional_id, and before the lengths became varints.
_VERSIONS: Final = range(3, 9)
_NUMBER: Final = struct.Struct(">i")
_ACKS_AND_TIMEOUT: Final = struct.Struct(">hi")
_PARTITION: Final = struct.Struct(">ii")


class PromptRequest:
    """Stands in for aiokafka's own request; the version of the broker decides how it is written."""

    def __init__(self, request: ProduceRequest) -> None:
        self._request = request
        self.required_acks = request.required_acks

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """See aiokafka.protocol.api.Request."""
        prepared = self._request.prepare(versions)
        if prepared.API_VERSION in _VERSIONS:
            prepared.encode = partial(encode, prepared)
        return prepared


class Pieces:
    """The body of a request, not yet joined. The connection puts a header and then the length in front of it with `+`,
    and only the second time everything is copied into one.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._has_header = False

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __radd__(self, before: bytes) -> "Pieces | bytes":
        if self._has_header:
            return b"".join((before, *self._pieces))
        found = Pieces((before, *self._pieces))
        found._has_header = True
        return found

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


def encode(request: Any) -> Pieces:
    """The body of a prepared request: transactional_id, required_acks, timeout, topics."""
    parts = [
        _text(request.transactional_id),
        _ACKS_AND_TIMEOUT.pack(request.required_acks, request.timeout),
        _NUMBER.pack(len(request.topics)),
    ]
    for topic, partitions in request.topics:
        parts += (_text(topic), _NUMBER.pack(len(partitions)))
        for partition, records in partitions:
            parts += (_PARTITION.pack(partition, len(records)), records)
    return Pieces(parts)


def _text(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded
