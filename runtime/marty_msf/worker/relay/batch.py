"""What is read at once and published together, and its form on the wire. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from marty_msf.core.cloudevents import headers, source
from marty_msf.core.partitioning import Partitioner
from marty_msf.core.windows import Positions
from marty_msf.worker.broker.producer import Message, Partition

#: id, lane, event_id, topic, event_type, aggregate_type, aggregate_id, payload, headers, time (store.outbox).
Row = Sequence[Any]
ID = 0
LANE = 1
TOPIC = 3
AGGREGATE_ID = 6


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows in id order, and where their lanes stand once all of them are published."""

    rows: Sequence[Row]
    after: Positions
    #: Where the lanes, and perhaps others, stand before it, their window opened.
    start: Positions

    def without(self, lanes: AbstractSet[int]) -> "Batch":
        """The same batch for the other lanes."""
        if lanes.isdisjoint(self.after):
            return self
        return replace(
            self,
            rows=[row for row in self.rows if row[LANE] not in lanes],
            after={lane: position for lane, position in self.after.items() if lane not in lanes},
        )

    def topics(self) -> set[str]:
        """The topics its rows go to."""
        return {row[TOPIC] for row in self.rows}

    def lanes_of(self, topics: AbstractSet[str]) -> set[int]:
        """The lanes that have a row for one of these topics."""
        return {row[LANE] for row in self.rows if row[TOPIC] in topics}

    def settled(self, lost: AbstractSet[int]) -> "Settled":
        """What is published when the rows with these ids are not: each lane up to the first of them."""
        stopped: set[int] = set()
        positions = dict(self.after)
        published: Counter[int] = Counter()
        last: dict[int, int] = {}
        for row in self.rows:
            lane = row[LANE]
            if lane in stopped:
                continue
            if row[ID] not in lost:
                published[lane] += 1
                last[lane] = row[ID]
                continue
            stopped.add(lane)
            del positions[lane]
            if lane in last:
                positions[lane] = self.start[lane].within(last[lane])
        return Settled(positions, published, stopped)

    def all_settled(self) -> "Settled":
        """All of it is published."""
        return Settled(self.after, Counter(row[LANE] for row in self.rows))


@dataclass(frozen=True, slots=True)
class Settled:
    """What of a batch is published."""

    positions: Positions
    published: Mapping[int, int]
    #: Lanes with a row that is not.
    stopped: AbstractSet[int] = frozenset()

    def without(self, lanes: AbstractSet[int]) -> "Settled":
        """The same without these lanes: an earlier row of theirs is not published."""
        positions = {lane: position for lane, position in self.positions.items() if lane not in lanes}
        return replace(self, positions=positions)


def split(rows: Sequence[Row], start: Positions, end: Positions, size: int) -> list[Batch]:
    """Cut what was read into batches of `size` rows; behind each but the last, the window is still open.

    `start` are the positions with the window opened, `end` those behind all rows.
    """
    batches = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        last = first + size >= len(rows)
        batches.append(Batch(part, end if last else _within(start, part[-1][ID]), start))
    return batches


def _within(start: Positions, last_id: int) -> Positions:
    """All lanes up to an id. Most lanes share their position, so few objects are made."""
    moved = {position: position.within(last_id) for position in set(start.values())}
    return {lane: moved[position] for lane, position in start.items()}


class Encoder:
    """Turns rows into Kafka messages, partition by partition, in the order of the rows."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._partitioner = Partitioner()

    def encode(self, rows: Sequence[Row], partitions: Mapping[str, int]) -> Mapping[Partition, Sequence[Message]]:
        """`partitions` has the number of partitions of every topic that occurs."""
        messages: dict[Partition, list[Message]] = {}
        choose, database = self._partitioner.partition, self._database
        for id_, _, event_id, topic, event_type, aggregate_type, aggregate_id, payload, own, time in rows:
            key = aggregate_id.encode()
            event_source = source(database, aggregate_type)
            message = (key, payload, headers(event_id, event_type, event_source, key, time, id_, own))
            partition = (topic, choose(key, partitions[topic]))
            if partition in messages:
                messages[partition].append(message)
            else:
                messages[partition] = [message]
        return messages

    def placed(self, rows: Sequence[Row], partitions: Mapping[str, int]) -> Mapping[Partition, Sequence[Row]]:
        """The rows behind the messages of `encode`, in the same order."""
        found: dict[Partition, list[Row]] = {}
        for row in rows:
            topic = row[TOPIC]
            partition = (topic, self._partitioner.partition(row[AGGREGATE_ID].encode(), partitions[topic]))
            found.setdefault(partition, []).append(row)
        return found
