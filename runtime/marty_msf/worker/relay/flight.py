"""What is on its way to Kafka, and what of it may be written down once its fate is known. Pure but for the futures."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from marty_msf.core.windows import Position, Positions
from marty_msf.store.outbox_held import Refusal
from marty_msf.worker.broker.sending import Sent
from marty_msf.worker.relay.batch import AGGREGATE_ID, ID, LANE, Batch, Row

NOTHING: Final[frozenset[int]] = frozenset()


@dataclass(eq=False, slots=True)
class Lane:
    """One time of holding a lane; compared by identity, so that what was read under an earlier time writes nothing."""

    epoch: int
    #: Position in the database.
    stored: Position
    #: Behind what was sent.
    sent: Position
    #: Behind what was read.
    read: Position
    #: Takes no new events: it is being handed back.
    draining: bool = False


def gone(then: Mapping[int, Lane], now: Mapping[int, Lane]) -> set[int]:
    """Lanes that were lost, or are being drained, since something of them was read."""
    return {lane for lane, state in then.items() if now.get(lane) is not state or state.draining}


@dataclass(eq=False, slots=True)
class Flight:
    """A batch being handed, or handed, to the producer."""

    batch: Batch
    lanes: Mapping[int, Lane]
    #: Number of partitions of each topic.
    partitions: Mapping[str, int]
    #: What of the batch is sent; the rest is held, or went ahead before.
    rows: Sequence[Row]
    held: AbstractSet[int] = NOTHING
    passed: AbstractSet[int] = NOTHING
    #: Whether it goes before older events: then it moves no position.
    ahead: bool = False
    started_at: float = 0
    #: None while it is being handed over.
    sent: Sequence[Sent] | None = None

    @property
    def acknowledged(self) -> bool:
        """Whether Kafka has answered for all of it, well or not."""
        return self.sent is not None and all(sent.acknowledged.done() for sent in self.sent)

    def settled(self, lost: AbstractSet[int], refused: Mapping[int, Refusal]) -> "Settled":
        """What is done when the rows with these ids are not acknowledged: each lane up to the first that is lost."""
        if not (lost or refused or self.held or self.passed or self.ahead):
            return Settled(self.batch.after, Counter(row[LANE] for row in self.rows))
        stopped: set[int] = set()
        positions = dict(self.batch.after)
        found = Settled(positions, Counter(), stopped=stopped)
        last: dict[int, int] = {}
        for row in self.batch.rows:
            lane, id_ = row[LANE], row[ID]
            if lane in stopped:
                continue
            if id_ in lost:
                stopped.add(lane)
                if positions.pop(lane, None) is not None and lane in last:
                    positions[lane] = self.batch.start[lane].within(last[lane])
                continue
            last[lane] = id_
            if id_ in refused or id_ in self.held:
                found.held[id_] = (row, refused.get(id_))
            elif id_ not in self.passed:
                found.published[lane] += 1
            if self.ahead:
                found.ahead[id_] = lane
            elif id_ in self.passed:
                found.passed[id_] = lane
        return found


@dataclass(frozen=True, slots=True)
class Settled:
    """What of a batch may be written down."""

    positions: Positions
    published: Counter[int]
    #: id -> the row, and why it was refused, or None when it only waits.
    held: dict[int, tuple[Row, Refusal | None]] = field(default_factory=dict)
    #: id -> lane.
    ahead: dict[int, int] = field(default_factory=dict)
    passed: dict[int, int] = field(default_factory=dict)
    #: Lanes with a row that is lost.
    stopped: AbstractSet[int] = NOTHING

    def without(self, lanes: Collection[int]) -> "Settled":
        """The same without these lanes: an earlier row of theirs is lost, or they are not ours any more."""
        if not lanes:
            return self
        return replace(
            self,
            positions={lane: position for lane, position in self.positions.items() if lane not in lanes},
            published=Counter({lane: number for lane, number in self.published.items() if lane not in lanes}),
            held={id_: held for id_, held in self.held.items() if held[0][LANE] not in lanes},
            ahead={id_: lane for id_, lane in self.ahead.items() if lane not in lanes},
            passed={id_: lane for id_, lane in self.passed.items() if lane not in lanes},
        )

    def lanes(self) -> set[int]:
        """The lanes it is about."""
        return {*self.positions, *self.ahead.values()}

    def held_keys(self) -> Sequence[tuple[int, str | None]]:
        """Lane and aggregate of what is held."""
        return [(row[LANE], row[AGGREGATE_ID]) for row, _ in self.held.values()]
