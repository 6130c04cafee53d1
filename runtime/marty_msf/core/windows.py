"""Reading an outbox by snapshot windows. Pure.

A window is what became visible between two snapshots of the database, `prev` and `next`, sorted by id. Neither the id
nor the transaction id is the order of commits: a cursor on either loses rows that commit late, or hands out the second
event of an aggregate before the first. A writer left open delays its own rows only: they are in a later window.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from marty_msf.core.lanes import LANES


class Snapshot(NamedTuple):
    """Postgres's `pg_snapshot`: transactions below xmin are decided, those from xmax on and those in xip are not."""

    xmin: int
    xmax: int
    xip: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """From Postgres's own text, `xmin:xmax:xid,xid,…`."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in xip.split(",") if xid))


#: Nothing is visible in it: the start of the outbox.
BEGINNING: Final = Snapshot(1, 1, ())


@dataclass(frozen=True, slots=True)
class Position:
    """How far a lane was read: all of `prev`, and of the window up to `next` the ids up to `last_id`."""

    prev: Snapshot
    next: Snapshot | None = None
    last_id: int = 0

    def within(self, last_id: int) -> "Position":
        """The same window, read up to an id."""
        return replace(self, last_id=last_id)

    def opened(self, end: Snapshot, last_id: int) -> "Position":
        """A window from here to `end`, read up to an id."""
        return Position(self.prev, end, last_id)


Positions: TypeAlias = Mapping[int, Position]


def closed(end: Snapshot) -> Position:
    """The position behind a window that was read to its end."""
    return Position(end)


def next_window(positions: Positions) -> tuple[Snapshot | None, int, Positions]:
    """What to read next: (end, last_id, the lanes' positions).

    Open windows come first, those of one end and id together; `end` is None when all lanes stand between windows, so
    that one statement opens the next window of all of them and gives them the same end.
    """
    opened = {lane: position for lane, position in positions.items() if position.next is not None}
    if not opened:
        return None, 0, positions
    first = min(opened.values(), key=lambda position: position.last_id)
    group = {
        lane: position
        for lane, position in opened.items()
        if position.next == first.next and position.last_id == first.last_id
    }
    return first.next, first.last_id, group


@dataclass(frozen=True, slots=True)
class Range:
    """Index conditions that cover every row not visible in some snapshots: xid >= low, or xid one of `late`."""

    low: int
    late: Sequence[int]


def unseen_range(snapshots: Iterable[Snapshot]) -> Range:
    """The conditions for rows that at least one of the snapshots does not show; disjoint, the rows still need the filter."""
    distinct = set(snapshots)
    low = min(snapshot.xmax for snapshot in distinct)
    return Range(low, sorted({xid for snapshot in distinct for xid in snapshot.xip if xid < low}))


def by_lane(positions: Positions) -> tuple[Sequence[Position], bytes]:
    """The different positions, and at byte `lane` the number of the lane's own one, from 1; 0: not in `positions`.

    For the statements' filters, `(array)[get_byte(bytes, lane)]`: nearly all lanes share one position, and an array of 64
    costs more to send and to parse than a small read.
    """
    numbers: dict[Position, int] = {}
    lanes = bytearray(LANES)
    last: Position | None = None
    number = 0
    for lane, position in positions.items():
        if position is not last:
            last, number = position, numbers.setdefault(position, len(numbers) + 1)
        lanes[lane] = number
    return list(numbers), bytes(lanes)


def moved(positions: Positions, move: Callable[[Position], Position]) -> dict[int, Position]:
    """Each lane's position moved. Nearly all lanes share one, so that few objects are made, and few compared."""
    made: dict[Position, Position] = {}
    found: dict[int, Position] = {}
    last: Position | None = None
    there = None
    for lane, position in positions.items():
        if position is not last or there is None:
            last, there = position, made.get(position) or move(position)
            made[position] = there
        found[lane] = there
    return found
