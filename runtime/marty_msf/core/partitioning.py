"""Which Kafka partition a key belongs to: murmur2, as every Java client's default partitioner computes it. Pure."""

from struct import unpack_from
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The 32-bit hash of A. Appleby's MurmurHash2 with Kafka's seed, its sign bit cleared."""
    length = len(key)
    words = length // 4
    value = _SEED ^ length
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _M & _MASK
        value = (value * _M & _MASK) ^ ((mixed ^ (mixed >> 24)) * _M & _MASK)
    if rest := key[words * 4 :]:
        value = (value ^ int.from_bytes(rest, "little")) * _M & _MASK
    value = (value ^ (value >> 13)) * _M & _MASK
    return (value ^ (value >> 15)) & 0x7FFFFFFF


class Partitioner:
    """Remembers the hashes of recent keys: hashing costs more than a look-up, and few keys make most events."""

    def __init__(self, remembered: int = 100_000) -> None:
        self._hashes: dict[bytes, int] = {}
        self._remembered = remembered

    def partition(self, key: bytes, partitions: int) -> int:
        """The partition of a key in a topic that has `partitions`."""
        try:
            return self._hashes[key] % partitions
        except KeyError:
            if len(self._hashes) >= self._remembered:
                self._hashes.clear()
            value = self._hashes[key] = murmur2(key)
            return value % partitions
