"""When the outbox's slots are filled in turn and emptied. Pure.

Events stay for at least the retention after their slot was closed, and are gone after one and a half of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

SLOTS: Final = 4


@dataclass(frozen=True, slots=True)
class Ring:
    """How the slots stand, by the database's clock."""

    now: datetime
    current: int
    #: Since when the current one takes new events.
    since: datetime
    #: Whether it has any.
    used: bool
    #: Of the others those that are not empty, and when they stopped to take events.
    closed: Mapping[int, datetime]


def to_empty(ring: Ring, retention: timedelta) -> Sequence[int]:
    """The slots whose time is over, the oldest first."""
    over = [slot for slot, at in ring.closed.items() if ring.now - at >= retention]
    return sorted(over, key=lambda slot: ring.closed[slot])


def to_turn(ring: Ring, retention: timedelta) -> bool:
    """Whether new events shall go to the next slot now: half of the retention is a slot's share, so that of the four one
    is filled, two wait for their time, and one is empty.
    """
    following = (ring.current + 1) % SLOTS
    return ring.used and ring.now - ring.since >= retention / 2 and following not in ring.closed
