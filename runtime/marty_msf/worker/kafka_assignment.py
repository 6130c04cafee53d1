"""From where the owned partitions are read, and whether what was read may be given out.

Stored positions are compared with what Kafka has: with the offsets that retention left, and with the topic's id. A
topic that was deleted and made anew has the same name and offsets again; only its id tells that the events differ.
"""

from collections.abc import Mapping, Sequence

import asyncpg

from marty_msf.store import positions
from marty_msf.store.database import translate
from marty_msf.worker.broker.consumer import Consumer, Fetched, Partition
from marty_msf.worker.kafka_loss import judge, lost_offset, lost_topic, made_anew
from marty_msf.worker.kafka_partitions import Partitions


class Assignment:
    """Moves `partitions` between looked up, read and lost. Raises BrokerUnavailable and DatabaseUnavailable."""

    def __init__(self, pool: asyncpg.Pool, scope: str, topics: Sequence[str], partitions: Partitions) -> None:
        self._pool = pool
        self._scope = scope
        self._topics = topics
        self._partitions = partitions

    async def assign(self, consumer: Consumer) -> None:
        """Read exactly what is owned; partitions that are new to us from their stored positions on."""
        state = self._partitions
        state.assigned = True
        fresh = state.fresh()
        if fresh:
            await self._look_up(consumer, fresh)
        await consumer.assign(state.reading, state.held.keys() & state.reading.keys())

    async def look(self, consumer: Consumer) -> None:
        """Give up what was made anew while we read it; look up again what a person has mended."""
        state = self._partitions
        ids = await consumer.topic_ids([*state.reading, *state.lost])
        stored = await self._stored() if state.lost else {}
        for tp, lost in list(state.lost.items()):
            if lost.mended(stored.get(tp), ids.get(tp)):
                state.found(tp)
        for tp in list(state.reading):
            known = state.topic_ids.get(tp)
            if known is not None and made_anew(known, ids.get(tp)):
                state.lose(tp, lost_topic(self._scope, tp, state.reading[tp], known))

    async def proven(self, consumer: Consumer, fetched: Fetched) -> Fetched:
        """What of `fetched` belongs to the topics that the positions belong to; the rest is lost or fetched again.

        Fetches ask by name, and aiokafka fetches ahead: after a topic was made anew, its first events could be taken
        for those that follow the position. So the ids are asked after the fetch and before anything is given out. An id
        never comes back, and what is committed later was read before, so the transaction need not ask again.
        """
        state = self._partitions
        moved = [tp for tp, offset in fetched.positions.items() if offset != state.reading.get(tp)]
        doubtful = {
            tp: known for tp in {*moved, *fetched.out_of_range} if (known := state.topic_ids.get(tp)) is not None
        }
        ids = await consumer.topic_ids_read(doubtful)
        for tp, known in doubtful.items():
            if tp not in ids:
                # Deleted, or the leader has moved: fetched again, from the leader that is there then.
                state.assigned = False
            elif tp in state.reading and made_anew(known, ids[tp]):
                state.lose(tp, lost_topic(self._scope, tp, state.reading[tp], known))
        kept = fetched.of({tp for tp in state.reading.keys() & fetched.positions if tp not in doubtful or tp in ids})
        await self._lose_removed(consumer, kept)
        return kept

    async def _look_up(self, consumer: Consumer, fresh: Sequence[Partition]) -> None:
        state = self._partitions
        epochs = dict(state.owned)
        stored = await self._stored()
        head = await consumer.head(fresh)
        before = await consumer.topic_ids(fresh)
        earliest = await consumer.earliest(fresh)
        ids = await consumer.topic_ids(fresh)
        # The same id on both sides: the first offset between them is of this topic.
        told = [tp for tp in fresh if tp in ids and tp in before and not made_anew(before[tp], ids[tp])]
        found = {tp: stored.get(tp) or positions.Stored(earliest[tp], None, ids[tp]) for tp in told}
        lost = {tp: loss for tp in told if (loss := judge(self._scope, tp, found[tp], ids[tp], earliest[tp], head[tp]))}
        starts = {
            tp: positions.Start(found[tp].next_offset, found[tp].topic_id or ids[tp]) for tp in told if tp not in lost
        }
        with translate():
            async with self._pool.acquire() as conn:
                await positions.begin(conn, self._scope, {tp: at for tp, at in starts.items() if tp not in stored})
                nameless = {tp: at for tp, at in starts.items() if tp in stored and stored[tp].topic_id is None}
                if nameless:
                    await positions.adopt(conn, self._scope, nameless)
        for tp in told:
            if state.owned.get(tp) != epochs[tp]:
                continue
            if tp in lost:
                state.lose(tp, lost[tp])
            else:
                state.start(tp, starts[tp].next_offset, starts[tp].topic_id)
        if len(told) < len(fresh):
            state.assigned = False

    async def _lose_removed(self, consumer: Consumer, fetched: Fetched) -> None:
        """Retention passed us while we were reading."""
        state = self._partitions
        gone = list(fetched.out_of_range)
        earliest, head = await consumer.earliest(gone), await consumer.head(gone)
        for tp in gone:
            if tp in state.reading:
                at, topic_id = state.reading[tp], state.topic_ids[tp]
                state.lose(tp, lost_offset(self._scope, tp, at, topic_id, earliest[tp], head[tp]))

    async def _stored(self) -> Mapping[Partition, positions.Stored]:
        with translate():
            async with self._pool.acquire() as conn:
                return await positions.load(conn, self._scope, self._topics)
