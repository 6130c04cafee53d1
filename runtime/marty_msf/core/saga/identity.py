"""Ids of instances: UUID version 7, so that they sort by time and fill indexes from one end."""

from typing import Final

_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
#: Behind the time in milliseconds.
RANDOM_BITS: Final = 74
#: Of those that `uuid7_in_order` leaves to chance.
CHANCE_BITS: Final = 62


def uuid7(now_ms: int, random: int) -> bytes:
    """The sixteen bytes (RFC 9562) for a time in milliseconds since 1970 and RANDOM_BITS random bits."""
    high, low = random >> 62, random & ((1 << 62) - 1)
    return (now_ms << 80 | _VERSION | high << 64 | _VARIANT | low).to_bytes(16, "big")


def uuid7_in_order(now_ns: int, chance: int) -> bytes:
    """The sixteen bytes for a time in nanoseconds since 1970 and CHANCE_BITS random bits.

    The twelve bits behind the milliseconds are the fraction of the millisecond (RFC 9562, section 6.2, method 3): so the ids that
    one process makes are in the order in which it made them.
    """
    now_ms, rest_ns = divmod(now_ns, 1_000_000)
    return uuid7(now_ms, (rest_ns << 12) // 1_000_000 << CHANCE_BITS | chance)
