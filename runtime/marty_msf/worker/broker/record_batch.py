"""A record batch made of encoded records, in the place of aiokafka's builder: appending costs a list entry per record."""

import struct
import time
from collections.abc import Sequence
from typing import Final

import google_crc32c
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode

from marty_msf.core.records import HEAD_BYTES, records

#: base offset, length, partition leader epoch, magic, crc.
_BEFORE_CRC: Final = struct.Struct(">qiibI")
#: attributes, last offset delta, first and last timestamp, producer id and epoch, base sequence, number of records.
_BEHIND_CRC: Final = struct.Struct(">hiqqqhii")
#: What `length` does not count: base offset and itself.
_NOT_COUNTED: Final = 12
_MAGIC: Final = 2
_TRANSACTIONAL: Final = 0x10
#: Name of the compression -> its code in the attributes, and how it is done.
_CODECS: Final = {
    "gzip": (1, gzip_encode),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}


class RecordBatch:
    """What aiokafka's accumulator and sender ask of a BatchBuilder."""

    def __init__(self, limit_bytes: int, compression: str | None = None, *, transactional: bool = False) -> None:
        self._limit_bytes = limit_bytes
        self._compression = compression
        self._transactional = transactional
        self._tails: list[bytes] = []
        self._bytes = _BEFORE_CRC.size + _BEHIND_CRC.size
        self._producer = (-1, -1, -1)
        self._made: bytes | None = None
        self._closed = False

    def append(self, tail: bytes) -> bool:
        """Add a record (see core.records); False when the batch is full. The first record always fits."""
        size = len(tail) + HEAD_BYTES
        if self._tails and self._bytes + size > self._limit_bytes:
            return False
        self._tails.append(tail)
        self._bytes += size
        return True

    def extend(self, tails: Sequence[bytes]) -> int:
        """Add as many of these records as fit; how many."""
        size = sum(map(len, tails)) + HEAD_BYTES * len(tails)
        if self._bytes + size <= self._limit_bytes:
            self._tails += tails
            self._bytes += size
            return len(tails)
        return next((number for number, tail in enumerate(tails) if not self.append(tail)), len(tails))

    def record_count(self) -> int:
        """Records in the batch."""
        return len(self._tails)

    def size(self) -> int:
        """Bytes, uncompressed, at most."""
        return len(self._made) if self._made is not None else self._bytes

    def close(self) -> None:
        """Nothing is added any more."""
        self._closed = True

    def closed(self) -> bool:
        """Whether nothing is added any more."""
        return self._closed

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytes:
        """The batch as it is sent; made once, with the producer's state as it is then."""
        if self._made is None:
            self.close()
            body, attributes = records(self._tails), _TRANSACTIONAL if self._transactional else 0
            if self._compression is not None:
                code, compress = _CODECS[self._compression]
                attributes, body = attributes | code, compress(body)
            now_ms = time.time_ns() // 1_000_000
            count = len(self._tails)
            head = _BEHIND_CRC.pack(attributes, count - 1, now_ms, now_ms, *self._producer, count)
            length = _BEFORE_CRC.size - _NOT_COUNTED + len(head) + len(body)
            crc = google_crc32c.extend(google_crc32c.value(head), body)
            self._made = b"".join((_BEFORE_CRC.pack(0, length, 0, _MAGIC, crc), head, body))
        return self._made
