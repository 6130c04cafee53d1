"""What a reader of Kafka knows about its partitions: which are ours, how far each is read, which stand still, what is out.

Only bookkeeping: no connection is used here. `KafkaInput` reads and writes, its lane owners tell what is gained and lost.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from marty_msf.core.errors import PoisonEvent
from marty_msf.worker.broker.consumer import Fetched, Partition, Record
from marty_msf.worker.kafka_loss import Lost


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in offset order per partition, and the positions before and after them.

    `records` may be empty: then only control records of Kafka transactions were passed.
    """

    records: Sequence[Record]
    next_offsets: Mapping[Partition, int]
    from_offsets: Mapping[Partition, int] = field(default_factory=dict)
    #: Lease epoch under which each partition was read: what a caller remembers under it nobody else has changed.
    epochs: Mapping[Partition, int] = field(default_factory=dict)
    #: The topic that each partition was read from; None when nobody knows.
    topic_ids: Mapping[Partition, UUID | None] = field(default_factory=dict)

    def until(self, stops: Mapping[Partition, int]) -> "Batch":
        """The same batch without the records from these offsets on; committed in its place."""
        next_offsets = {**self.next_offsets, **stops}
        return replace(
            self,
            records=[r for r in self.records if r.offset < stops.get((r.topic, r.partition), r.offset + 1)],
            next_offsets={tp: offset for tp, offset in next_offsets.items() if offset != self.from_offsets[tp]},
        )


class Partitions:
    """The state of one reader. Changed only in the event loop's thread, never across an await."""

    def __init__(self) -> None:
        #: Partition -> lease epoch of what is ours.
        self.owned: dict[Partition, int] = {}
        #: Partition -> next offset to read; a partition that is owned but not here has yet to be looked up.
        self.reading: dict[Partition, int] = {}
        #: For each partition being read, the id of the topic in its stored position; None when nobody knows.
        self.topic_ids: dict[Partition, UUID | None] = {}
        #: Partition -> offset that the caller cannot apply; nothing is read from there on.
        self.held: dict[Partition, tuple[int, PoisonEvent]] = {}
        #: Partition -> why its stored position means nothing in Kafka; nothing is read.
        self.lost: dict[Partition, Lost] = {}
        #: Whether the consumer reads exactly what stands here.
        self.assigned = False
        #: Set when something is gained.
        self.changed = asyncio.Event()
        self._in_work: list[Batch] = []
        self._returned = asyncio.Event()

    def gained(self, epochs: Mapping[Partition, int]) -> None:
        """These partitions are ours from now on, under a new epoch."""
        self.dropped(list(epochs))
        self.owned.update(epochs)
        self.changed.set()

    def dropped(self, partitions: Sequence[Partition]) -> None:
        """These partitions are not ours any more."""
        for partition in partitions:
            for state in (self.owned, self.reading, self.topic_ids, self.held, self.lost):
                state.pop(partition, None)
        self.assigned = False

    async def finished(self, partitions: Sequence[Partition]) -> None:
        """Return once no batch given out has records of these partitions."""
        while any(not batch.next_offsets.keys().isdisjoint(partitions) for batch in self._in_work):
            self._returned.clear()
            await self._returned.wait()

    def fresh(self) -> Sequence[Partition]:
        """Owned partitions whose position has yet to be looked up."""
        return [tp for tp in self.owned if tp not in self.reading and tp not in self.lost]

    def start(self, partition: Partition, offset: int, topic_id: UUID | None) -> None:
        """Read from `offset` of this topic on. A held event behind it is read again, because what came before it was rolled back."""
        self.reading[partition] = offset
        self.topic_ids[partition] = topic_id
        if partition in self.held and offset < self.held[partition][0]:
            del self.held[partition]

    def lose(self, partition: Partition, lost: Lost) -> None:
        """Kafka has nothing any more that the position could stand for."""
        for state in (self.reading, self.topic_ids, self.held):
            state.pop(partition, None)
        self.lost[partition] = lost
        self.assigned = False

    def found(self, partition: Partition) -> None:
        """A lost position was mended: look it up again."""
        self.lost.pop(partition, None)
        self.assigned = False

    def give_out(self, fetched: Fetched, epochs: Mapping[Partition, int]) -> Batch | None:
        """What was fetched while `epochs` were ours, without the partitions that were lost meanwhile."""
        ours = {
            tp: offset
            for tp, offset in fetched.positions.items()
            if tp in self.reading and self.owned.get(tp) == epochs.get(tp)
        }
        moved = {tp: offset for tp, offset in ours.items() if offset != self.reading[tp]}
        if not moved:
            return None
        records = fetched.records
        if len(ours) != len(fetched.positions):
            records = [r for r in records if (r.topic, r.partition) in moved]
        batch = Batch(
            records,
            moved,
            {tp: self.reading[tp] for tp in moved},
            {tp: epochs[tp] for tp in moved},
            {tp: self.topic_ids[tp] for tp in moved},
        )
        self.reading.update(moved)
        self._in_work.append(batch)
        return batch

    def returned(self, batch: Batch) -> None:
        """A batch, or what `until` left of it, is committed."""
        self._in_work = [b for b in self._in_work if b.from_offsets is not batch.from_offsets]
        self._returned.set()

    def rewind(self) -> None:
        """Forget the batches given out; every position is looked up again."""
        self._in_work.clear()
        self.reading.clear()
        self.topic_ids.clear()
        self.assigned = False
        self._returned.set()

    @property
    def all_stand_still(self) -> bool:
        """Whether none of our partitions can be read on."""
        return len(self.lost) + len(self.held) >= len(self.owned)
