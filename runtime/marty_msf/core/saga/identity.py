"""Ids of instances: UUID version 7, so that they sort by time and fill indexes from one end."""

from typing import Final

_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
RANDOM_BITS: Final = 74


def uuid7(now_ms: int, random: int) -> bytes:
    """The sixteen bytes (RFC 9562) for a time in milliseconds since 1970 and RANDOM_BITS random bits."""
    high, low = random >> 62, random & ((1 << 62) - 1)
    return (now_ms << 80 | _VERSION | high << 64 | _VARIANT | low).to_bytes(16, "big")
