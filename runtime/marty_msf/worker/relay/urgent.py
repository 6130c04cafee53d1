"""Events that go out before older ones: found while more is waiting than one read brings.

The unit is the aggregate: all that is waiting of one with an urgent event goes out, in order, so that an urgent event
overtakes strangers only. What went ahead is remembered until the position comes by, and the position comes by in its own
turns, so that nothing waits for ever.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Final

import asyncpg

from marty_msf.core.outbox.turns import Turns
from marty_msf.core.windows import Positions
from marty_msf.store import outbox_urgent
from marty_msf.store.outbox_urgent import Seen
from marty_msf.worker.relay.batch import EXTRAS, Row, extras
from marty_msf.worker.relay.shared import Shared
from marty_msf.worker.relay.work import Level

#: Events ahead of the position at most: each is remembered, here and in the database.
AHEAD_AT_MOST: Final = 20_000
#: Aggregates, and events, that go out together.
AGGREGATES: Final = 200
EVENTS: Final = 1_000
#: Of what is read, how much is looked at for events of a lower priority; and the part of them below which nothing is gained by
#: going ahead of the rest: an event waits at most a third longer in its turn.
SAMPLE: Final = 200
LEAST_BELOW: Final = 0.25
#: What is urgent waits for the read that it comes upon: beside it reads are short, for so long after the last one was found.
READ_BESIDE: Final = 3_000
BESIDE_SECONDS: Final = 1.0
STATEMENTS: Final = {Level.HIGH: outbox_urgent.HIGH, Level.NORMAL: outbox_urgent.NORMAL}


class Urgent:
    """Whose turn it is, and where urgent events are."""

    def __init__(self, weights: Mapping[Level, int]) -> None:
        self._turns = Turns(weights)
        self._seen: dict[Level, Seen] = {}
        #: Level -> aggregates (lane, id), or single events without one, that have urgent events; in order of arrival.
        self._found: dict[Level, dict[tuple[int, str | int], None]] = {level: {} for level in STATEMENTS}
        self._found_at = -BESIDE_SECONDS

    def reset(self) -> None:
        """Look again from where the lanes stand."""
        # New ones: a look that goes on keeps to the former.
        self._seen = {}
        self._found = {level: {} for level in STATEMENTS}

    def next(self, waiting: Collection[Level]) -> Level | None:
        """Whose turn it is; None when nothing is waiting."""
        return self._turns.next(waiting) if waiting else None

    @property
    def about(self) -> bool:
        """Whether something urgent was found a moment ago."""
        return time.monotonic() < self._found_at + BESIDE_SECONDS

    def read_at_most(self, events: int) -> int:
        """Of so many events, how many to read at once before looking again for urgent ones."""
        return min(events, READ_BESIDE) if self.about else events

    async def read(
        self, conn: asyncpg.Connection, sent: Positions, oldest: Sequence[Row], shared: Shared
    ) -> Sequence[tuple[Level, Sequence[Row]]]:
        """What may go out before `oldest`, by level. Several statements, each with a snapshot of its own."""
        low, not_high = _shares_below(oldest)
        levels = [Level.HIGH] if not_high >= LEAST_BELOW else []
        if low >= LEAST_BELOW:
            levels.append(Level.NORMAL)
        batches = []
        seen, known = self._seen, self._found
        for level in levels:
            if len(shared.ahead) >= AHEAD_AT_MOST:
                break
            found = await outbox_urgent.urgent(conn, STATEMENTS[level], seen.get(level, Seen()), sent)
            seen[level] = found.seen
            known[level].update((key, None) for key in found.keys if key[0] in sent)
            if chosen := list(islice(known[level], AGGREGATES)):
                names = [name for _, name in chosen]
                rows, complete = await outbox_urgent.waiting(
                    conn,
                    [name for name in names if isinstance(name, str)],
                    [name for name in names if isinstance(name, int)],
                    sent,
                    shared.ahead.ids(),
                    EVENTS,
                )
                if complete:
                    for key in chosen:
                        del known[level][key]
                batches.append((level, [row for row in rows if row[1] in sent]))
                self._found_at = time.monotonic()
        return batches


def _shares_below(rows: Sequence[Row]) -> tuple[float, float]:
    """The parts of events below normal and below high; where nothing was read, urgent events may be behind all the same."""
    sample = rows[:SAMPLE]
    if not sample:
        return 0, 1
    priorities = [1 if row[EXTRAS] is None else extras(row[EXTRAS])["priority"] for row in sample]
    return priorities.count(0) / len(sample), 1 - priorities.count(2) / len(sample)
