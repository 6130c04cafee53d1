"""What was read and not sent, in memory."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from marty_msf.worker.relay.batch import ID, LANE, Batch, Row
from marty_msf.worker.relay.flight import Flight


class Level(StrEnum):
    """Classes of waiting events, between which the turn goes."""

    HIGH = "high"
    NORMAL = "normal"
    #: The oldest ones, whatever their priority.
    OLDEST = "oldest"


@dataclass(slots=True)
class Work:
    """Batches that wait for their turn."""

    ready: deque[Batch] = field(default_factory=deque)
    urgent: defaultdict[Level, deque[Batch]] = field(default_factory=lambda: defaultdict(deque))
    #: Ids sent, held or passed over since what is urgent was read.
    sent_meanwhile: set[int] = field(default_factory=set)
    _reading: int = 0

    @property
    def waiting(self) -> Sequence[Level]:
        """The classes that have something to send."""
        found = [level for level, batches in self.urgent.items() if batches]
        if self.ready:
            found.append(Level.OLDEST)
        return found

    def peek(self, level: Level) -> Batch:
        """The next batch of a class."""
        return self._batches(level)[0]

    def pop(self, level: Level) -> Batch:
        """Take the next batch of a class."""
        return self._batches(level).popleft()

    def add_urgent(self, level: Level, rows: Sequence[Row]) -> None:
        """Queue what goes before older events."""
        if rows:
            self.urgent[level].append(Batch(rows, {}, {}))

    @contextmanager
    def noting_sent(self) -> Iterator[None]:
        """Note what is sent or passed while urgent events are being read: the query may find it waiting."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def note_sent(self, flight: Flight) -> None:
        """What is in this flight is no longer waiting, nor what the position passes with it."""
        if self._reading or any(self.urgent.values()):
            self.sent_meanwhile.update(row[ID] for row in flight.batch.rows)
        elif self.sent_meanwhile:
            self.sent_meanwhile.clear()

    def drop(self, lanes: Collection[int]) -> None:
        """Take these lanes out of what is not sent."""
        gone = frozenset(lanes)
        kept = (batch.without(gone) for batch in self.ready)
        self.ready = deque(batch for batch in kept if batch.after)
        for level, batches in self.urgent.items():
            parts = ([row for row in batch.rows if row[LANE] not in gone] for batch in batches)
            self.urgent[level] = deque(Batch(rows, {}, {}) for rows in parts if rows)

    def _batches(self, level: Level) -> deque[Batch]:
        return self.ready if level is Level.OLDEST else self.urgent[level]
