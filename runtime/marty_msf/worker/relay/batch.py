"""What is read at once and published together, and its form on the wire. Pure."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import methodcaller
from typing import Any, Final
from zlib import crc32

import orjson

from marty_msf.core import cloudevents
from marty_msf.core.partitioning import Partitioner, murmur2
from marty_msf.core.records import field
from marty_msf.core.windows import Positions, moved
from marty_msf.worker.broker.sending import Message, Partition

#: id, lane, event_id, topic, event_type, aggregate_type, aggregate_id, payload, headers, time, extras (store.outbox).
Row = Sequence[Any]
ID = 0
LANE = 1
EVENT_ID = 2
TOPIC = 3
EVENT_TYPE = 4
AGGREGATE_ID = 6
PAYLOAD = 7
EXTRAS = 10
COLUMNS = 11

KEYS_REMEMBERED = 100_000


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


def split(rows: Sequence[Row], start: Positions, end: Positions, size: int) -> list[Batch]:
    """Cut what was read into batches of `size` rows; behind each but the last, the window is still open.

    `start` are the positions with the window opened, `end` those behind all rows.
    """
    batches = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        last = first + size >= len(rows)
        after = end if last else moved(start, methodcaller("within", part[-1][ID]))
        batches.append(Batch(part, after, start))
    return batches


NO_KEY: Final = field(None)
#: What the extras of an event that has a priority only say.
PRIORITY_ALONE: Final = {
    str(priority): {"key": None, "max_attempts": None, "after": None, "priority": priority} for priority in (0, 2)
}


@lru_cache(maxsize=4096)
def extras(text: str) -> Mapping[str, Any]:
    """What an event asks for beyond the usual: key, max_attempts, priority, and after, in microseconds since 1970."""
    found: Mapping[str, Any] = PRIORITY_ALONE.get(text) or orjson.loads(text)
    return found


def own_limit(row: Row) -> int | None:
    """The attempts that an event asks for; None when it leaves them to the relay."""
    return extras(row[EXTRAS])["max_attempts"] if row[EXTRAS] is not None else None


class Encoder:
    """Turns rows into Kafka messages, partition by partition, in the order of the rows."""

    def __init__(self, database: str) -> None:
        self._events = cloudevents.Encoder(database)
        self._partitioner = Partitioner()
        #: Key -> the key as a field, and its hash: few aggregates make most events.
        self._keys: dict[str, tuple[bytes, int]] = {}

    def encode(self, rows: Sequence[Row], partitions: Mapping[str, int]) -> Mapping[Partition, Sequence[Message]]:
        """`partitions` has the number of partitions of every topic that occurs."""
        messages: dict[Partition, list[Message]] = {}
        known, usual, loose, own_headers = self._keys, self._events.tail, self._events.loose_tail, self._events.own
        for row in rows:
            id_, _, event_id, topic, event_type, aggregate_type, aggregate_id, payload, own, time, more = row
            named = () if own is None else own_headers(own)
            if (
                named is not None
                and aggregate_id is not None
                and (more is None or more in PRIORITY_ALONE or _own_key(more, aggregate_id) is None)
            ):
                key, hashed = known.get(aggregate_id) or self._learn(aggregate_id)
                message = usual(event_id, event_type, aggregate_type, key, payload, time, id_, named)
                partition = (topic, hashed % partitions[topic])
            elif named is not None:
                if more is None or (own_key := _own_key(more, aggregate_id)) is None:
                    key, hashed = NO_KEY, _scattered(event_id)
                else:
                    key, hashed = known.get(own_key) or self._learn(own_key)
                subject = None if aggregate_id is None else field(aggregate_id.encode())
                message = loose(event_id, event_type, aggregate_type, key, subject, payload, time, named)
                partition = (topic, hashed % partitions[topic])
            else:
                message, partition = self.unusual(row, partitions)
            if partition in messages:
                messages[partition].append(message)
            else:
                messages[partition] = [message]
        return messages

    def _learn(self, name: str) -> tuple[bytes, int]:
        if len(self._keys) >= KEYS_REMEMBERED:
            self._keys.clear()
        key = name.encode()
        found = self._keys[name] = field(key), murmur2(key)
        return found

    def unusual(
        self, row: Row, partitions: Mapping[str, int], more: cloudevents.Headers = ()
    ) -> tuple[Message, Partition]:
        """Any row, with further headers, and where it goes."""
        key, order = _key_and_order(row[EXTRAS], row[AGGREGATE_ID])
        subject = None if row[AGGREGATE_ID] is None else row[AGGREGATE_ID].encode()
        sequence = row[ID] if order else None
        _, _, event_id, topic, event_type, aggregate_type, _, payload, own, time, _ = row
        message = self._events.unusual_tail(
            event_id, event_type, aggregate_type, key, subject, payload, time, sequence, own, more
        )
        return message, (topic, self._partition(key, event_id, partitions[topic]))

    def placed(self, rows: Sequence[Row], partitions: Mapping[str, int]) -> Mapping[Partition, Sequence[Row]]:
        """The rows behind the messages of `encode`, in the same order."""
        found: dict[Partition, list[Row]] = {}
        for row in rows:
            key, _ = _key_and_order(row[EXTRAS], row[AGGREGATE_ID])
            topic = row[TOPIC]
            partition = (topic, self._partition(key, row[EVENT_ID], partitions[topic]))
            found.setdefault(partition, []).append(row)
        return found

    def _partition(self, key: bytes | None, event_id: str, partitions: int) -> int:
        """Where Kafka's own clients put the key; without one anywhere."""
        return _scattered(event_id) % partitions if key is None else self._partitioner.partition(key, partitions)


def _scattered(event_id: str) -> int:
    """In place of a key's hash: any partition will do, as long as it is the same each time."""
    return crc32(event_id.encode())


def _key_and_order(more: str | None, aggregate_id: str | None) -> tuple[bytes | None, bool]:
    """Kafka's key, and whether events of this key have an order: not under a key that is not the aggregate's id."""
    key = None if more is None else _own_key(more, aggregate_id)
    if key is not None:
        return key.encode(), False
    return (None, False) if aggregate_id is None else (aggregate_id.encode(), True)


def _own_key(more: str, aggregate_id: str | None) -> str | None:
    """A key that is not the aggregate's id."""
    key: str | None = extras(more)["key"]
    return None if key == aggregate_id else key
