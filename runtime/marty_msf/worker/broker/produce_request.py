"""Kafka's produce request and its answer, written and read at once.

aiokafka does both field by field, and copies the record batches at each level: nine times all that a relay sends.
https://kafka.apache.org/protocol.html#The_Messages_Produce, versions 3 to 7.
"""

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import ClassVar, Final, Self, TypeAlias

from aiokafka.errors import IncompatibleBrokerVersion

#: Topic, and partition and record batch.
Topics: TypeAlias = Sequence[tuple[str, Sequence[tuple[int, bytes]]]]

_KEY: Final = 0
#: Those with the field transactional_id, and before an answer tells of single records.
_FIRST_VERSION: Final = 3
_LAST_VERSION: Final = 7
#: From here on an answer has the log's first offset.
_LOG_START_VERSION: Final = 5
_NUMBER: Final = struct.Struct(">i")
_LENGTH: Final = struct.Struct(">h")
#: API key, version, correlation id.
_HEADER: Final = struct.Struct(">hhi")
_ACKS_AND_TIMEOUT: Final = struct.Struct(">hi")
_ALL_REPLICAS: Final = -1
_PARTITION: Final = struct.Struct(">ii")
#: Partition, error, first offset, time, and in later versions the log's first offset.
_RESULT: Final = struct.Struct(">ihqq")
_LATER_RESULT: Final = struct.Struct(">ihqq8x")


class ProduceRequest:
    """In the place of aiokafka's own; acknowledged by all replicas in sync."""

    required_acks: ClassVar[int] = _ALL_REPLICAS

    def __init__(self, transactional_id: str | None, timeout_ms: int, topics: Topics) -> None:
        self._transactional_id = transactional_id
        self._timeout_ms = timeout_ms
        self._topics = topics

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> "Prepared":
        """See aiokafka.protocol.api.Request. Raises IncompatibleBrokerVersion."""
        lowest, highest = versions.get(_KEY, (0, -1))
        version = min(highest, _LAST_VERSION)
        if version < max(lowest, _FIRST_VERSION):
            raise IncompatibleBrokerVersion(
                f"the broker takes versions {lowest} to {highest} of the produce request, this client writes"
                f" {_FIRST_VERSION} to {_LAST_VERSION}"
            )
        return Prepared(version, self)

    def encode(self) -> "Pieces":
        """The body, which is the same in all of the versions."""
        parts = [
            _text(self._transactional_id),
            _ACKS_AND_TIMEOUT.pack(_ALL_REPLICAS, self._timeout_ms),
            _NUMBER.pack(len(self._topics)),
        ]
        for topic, partitions in self._topics:
            parts += (_text(topic), _NUMBER.pack(len(partitions)))
            for number, records in partitions:
                parts += (_PARTITION.pack(number, len(records)), records)
        return Pieces(parts)


class Prepared:
    """A request in the version that the broker takes: what aiokafka's connection asks of one."""

    API_KEY: ClassVar[int] = _KEY

    def __init__(self, version: int, request: ProduceRequest) -> None:
        self.API_VERSION = version
        self._request = request

    @property
    def RESPONSE_TYPE(self) -> type["Answer"]:  # noqa: N802  # aiokafka's name
        """How the answer is read."""
        return _EarlyAnswer if self.API_VERSION < _LOG_START_VERSION else Answer

    def build_request_header(self, correlation_id: int, client_id: str) -> "Header":
        """What stands before the body."""
        return Header(_HEADER.pack(_KEY, self.API_VERSION, correlation_id) + _text(client_id))

    def encode(self) -> "Pieces":
        """The body."""
        return self._request.encode()

    def parse_response_header(self, stream: BytesIO) -> "Answered":
        """What stands before an answer."""
        return Answered(*_NUMBER.unpack(stream.read(_NUMBER.size)))


class Header:
    """The header of a request."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def encode(self) -> bytes:
        """As it is sent."""
        return self._text


class Answered:
    """The header of an answer."""

    def __init__(self, correlation_id: int) -> None:
        self.correlation_id = correlation_id


class Answer:
    """What became of each partition's batch: topic, then partition, error, first offset and time."""

    #: The version of aiokafka's answers that has these fields.
    API_VERSION: ClassVar[int] = 2
    _result: ClassVar[struct.Struct] = _LATER_RESULT

    def __init__(self, topics: Sequence[tuple[str, Sequence[tuple[int, int, int, int]]]]) -> None:
        self.topics = topics

    @classmethod
    def decode(cls, stream: BytesIO) -> Self:
        """Read one behind its header."""
        result = cls._result
        topics = []
        for _ in range(*_NUMBER.unpack(stream.read(_NUMBER.size))):
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            topic = stream.read(length).decode()
            (count,) = _NUMBER.unpack(stream.read(_NUMBER.size))
            topics.append((topic, list(result.iter_unpack(stream.read(count * result.size)))))
        return cls(topics)


class _EarlyAnswer(Answer):
    _result = _RESULT


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


def _text(text: str | None) -> bytes:
    if text is None:
        return _LENGTH.pack(-1)
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded
