"""Sends what is held and due: delayed events, those that Kafka refused before, those whose topic was missing, and what
waits behind them, in order per aggregate. It has a producer session of its own, so a refusal disturbs nobody else; where
lanes have transactions, it sends in one of the events' lane, and so under the same id as the pipeline.

While an aggregate is held the pipeline sends nothing of it, so the two never race. Events that were never tried go in
batches; once a batch is refused its aggregates go one event at a time, which shows the culprit.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, TypeAlias

import asyncpg

from marty_msf.core.cloudevents import Headers
from marty_msf.core.errors import BatchTooLarge, BrokerUnavailable, PoisonBatch, PoisonEvent, TopicUnavailable
from marty_msf.store import outbox_held, outbox_position
from marty_msf.store.database import translate
from marty_msf.store.leases import fence
from marty_msf.store.outbox_held import Refusal
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import Message, Partition
from marty_msf.worker.groups import to_its_end
from marty_msf.worker.relay.batch import AGGREGATE_ID, COLUMNS, ID, LANE, TOPIC, Encoder
from marty_msf.worker.relay.notes import by_lane
from marty_msf.worker.relay.rules import Rules
from marty_msf.worker.relay.shared import Shared

logger = logging.getLogger(__name__)

Deliver: TypeAlias = Callable[[int, Mapping[Partition, Sequence[Message]]], Awaitable[None]]

#: Aggregates looked at in one pass, and events of each.
HEADS: Final = 200
CHAIN: Final = 500
COPIES: Final = 100
#: A lane waits at most so long, or for so many passes as the last one, until what catches up is sent.
CATCH_UP_SECONDS: Final = 1
CATCH_UP_PASSES: Final = 3
#: Between two looks at what people's verbs have changed.
COUNT_SECONDS: Final = 2
#: Before a dead-letter topic is asked again for a copy that it refused: somebody may have raised its limit.
COPY_AGAIN_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class HeldPass:
    """What one pass did."""

    published: int = 0
    died: int = 0
    #: Whether nothing was due.
    idle: bool = True


@dataclass(slots=True)
class _Outcome:
    sent: set[int] = field(default_factory=set)
    refused: dict[int, Refusal] = field(default_factory=dict)


class HeldSender:
    """Works on the held events of this process's lanes."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        connect: Callable[[], KafkaProducer],
        *,
        scope: str,
        holder: str,
        resource: str,
        rules: Rules,
        shared: Shared,
        dead_letter_topic: str | None,
        deliver: Deliver | None = None,
    ) -> None:
        """`deliver` sends events of one lane, all or none, in place of the session that `connect` makes."""
        self._pool = pool
        self._connect = connect
        self._producer: KafkaProducer | None = None
        self._scope = scope
        self._holder = holder
        self._resource = resource
        self._rules = rules
        self._shared = shared
        self._topic = dead_letter_topic
        self._deliver = deliver
        self._encoder = Encoder(shared.database)
        #: Aggregates, or single events, whose events go one at a time.
        self._alone: set[str | int] = set()
        self._count_at = 0.0
        self._copy_again_at = 0.0

    async def stop(self) -> None:
        """End the session."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def run_once(self) -> HeldPass:
        """Send what is due and write down what became of it.

        Raises BrokerUnavailable, TopicUnavailable when a topic lost partitions that were known of (call `stop`, the next
        session looks anew), DatabaseUnavailable, LeaseLost.
        """
        async with self._shared.sending_held:
            epochs = dict(self._shared.epochs)
            if not epochs:
                return HeldPass()
            began = time.monotonic()
            await self._look_for_topics()
            with translate():
                async with self._pool.acquire() as conn:
                    if time.monotonic() >= self._count_at:
                        self._shared.keys.recount(*await outbox_held.counts(conn, epochs))
                        self._count_at = time.monotonic() + COUNT_SECONDS
                    rows = await outbox_held.due(conn, epochs, self._shared.missing, HEADS, CHAIN)
            outcome = _Outcome()
            try:
                await self._send(_sendable(rows), outcome)
            finally:
                settled = await to_its_end(self._settle(rows, outcome, epochs))
            self._tell_progress(rows, outcome, began)
            copied = await self._copy(epochs)
        return HeldPass(settled.published, sum(settled.dead.values()), not (rows or copied))

    async def _look_for_topics(self) -> None:
        """Whether topics that were missing are there now; what waits for them is due at once."""
        if topics := self._shared.to_look_for(time.monotonic()):
            partitions = await (await self._session()).partitions(topics)
            for topic, count in partitions.items():
                if count:
                    del self._shared.missing[topic]
                else:
                    self._shared.miss(topic)

    async def _send(self, chains: Sequence[Sequence[asyncpg.Record]], outcome: _Outcome) -> None:
        if not chains:
            return
        producer = await self._session()
        partitions = await producer.partitions({row[TOPIC] for chain in chains for row in chain})
        for topic, count in partitions.items():
            if not count:
                self._shared.miss(topic)
        together: list[asyncpg.Record] = []
        for chain in chains:
            there = list(takewhile(lambda row: row[TOPIC] not in self._shared.missing, chain))
            if _name(chain[0]) in self._alone or chain[0]["attempts"] > 0:
                await self._one_by_one(there, partitions, outcome)
            else:
                together += there
        if together:
            together.sort(key=lambda row: row[ID])
            if self._deliver is None:
                await self._all_at_once(together, partitions, outcome)
            else:
                lanes = by_lane(together).values()
                ends = await asyncio.gather(
                    *(self._lane_at_once(rows, partitions, outcome) for rows in lanes), return_exceptions=True
                )
                for error in ends:
                    if error is not None:
                        raise error

    async def _all_at_once(
        self, rows: Sequence[asyncpg.Record], partitions: Mapping[str, int], outcome: _Outcome
    ) -> None:
        producer = await self._session()
        placed = {tp: iter(part) for tp, part in self._encoder.placed(rows, partitions).items()}
        for sent in await producer.send(self._encoder.encode([row[:COLUMNS] for row in rows], partitions)):
            part = [next(placed[sent.topic, sent.partition]) for _ in range(sent.records)]
            try:
                await producer.acknowledged([sent])
            except (PoisonEvent, PoisonBatch, TopicUnavailable, BrokerUnavailable) as error:
                # One at a time from now on; what is behind in the same session is in doubt too.
                self._alone.update(map(_name, rows))
                await self.stop()
                if isinstance(error, BrokerUnavailable) and not isinstance(error, BatchTooLarge):
                    raise
                return
            outcome.sent.update(row[ID] for row in part)

    async def _lane_at_once(
        self, rows: Sequence[asyncpg.Record], partitions: Mapping[str, int], outcome: _Outcome
    ) -> None:
        try:
            await self._acknowledged(rows, partitions)
        except (PoisonEvent, PoisonBatch, TopicUnavailable, BatchTooLarge):
            self._alone.update(map(_name, rows))
        else:
            outcome.sent.update(row[ID] for row in rows)

    async def _one_by_one(
        self, chain: Sequence[asyncpg.Record], partitions: Mapping[str, int], outcome: _Outcome
    ) -> None:
        for row in chain:
            try:
                await self._acknowledged([row], partitions)
            except PoisonEvent as error:
                await self.stop()
                outcome.refused[row[ID]] = self._rules.refusal(row, row["attempts"] + 1, error, row["max_attempts"])
                return
            except TopicUnavailable as error:
                await self.stop()
                self._shared.miss(row[TOPIC], self._rules.unusable_seconds(error))
                return
            except BrokerUnavailable:
                await self.stop()
                raise
            outcome.sent.add(row[ID])
        if chain:
            self._alone.discard(_name(chain[0]))

    async def _acknowledged(self, rows: Sequence[asyncpg.Record], partitions: Mapping[str, int]) -> None:
        messages = self._encoder.encode([row[:COLUMNS] for row in rows], partitions)
        if self._deliver is not None:
            await self._deliver(rows[0][LANE], messages)
        else:
            producer = await self._session()
            await producer.acknowledged(await producer.send(messages))

    async def _settle(
        self, rows: Sequence[asyncpg.Record], outcome: _Outcome, epochs: Mapping[int, int]
    ) -> outbox_held.Settled:
        touched = [row for row in rows if row[ID] in outcome.sent or row[ID] in outcome.refused]
        if not touched:
            return outbox_held.Settled((), {}, {}, 0)
        lanes = {row[LANE]: epochs[row[LANE]] for row in touched}
        before = self._shared.keys.times((row[LANE], row[AGGREGATE_ID]) for row in touched if row["in_order"])
        with translate():
            async with self._shared.writing, self._pool.acquire() as conn, conn.transaction():
                await fence(conn, self._scope, self._holder, lanes)
                await outbox_position.check_owner(conn, self._resource)
                await outbox_held.lock(conn, lanes)
                settled = await outbox_held.settle(
                    conn, outcome.sent, outcome.refused, dead_block=self._rules.dead_block
                )
        self._shared.keys.released(settled.free, before, settled.held, settled.dead)
        return settled

    def _tell_progress(self, rows: Sequence[asyncpg.Record], outcome: _Outcome, began: float) -> None:
        """Whose lanes are to wait a moment: without that an aggregate with ever new events would be held for ever."""
        number = Counter((row[LANE], row[AGGREGATE_ID]) for row in rows if row["in_order"])
        left = {(row[LANE], row[AGGREGATE_ID]) for row in rows if row["in_order"] and row[ID] not in outcome.sent}
        self._shared.keys.stand_still(left)
        now = time.monotonic()
        until = now + max(CATCH_UP_SECONDS, CATCH_UP_PASSES * (now - began))
        self._shared.keys.catch_up([key for key in number.keys() - left if number[key] < CHAIN], until)

    async def _copy(self, epochs: Mapping[int, int]) -> bool:
        """Send dead letters to their topic; at least once each."""
        if self._topic is None or self._topic in self._shared.missing:
            return False
        with translate():
            async with self._pool.acquire() as conn:
                again = time.monotonic() >= self._copy_again_at
                rows = await outbox_held.uncopied(conn, epochs, COPIES, self._topic, refused=again)
        if not rows:
            return False
        producer = await self._session()
        partitions = await producer.partitions([self._topic])
        if not partitions[self._topic]:
            self._shared.miss(self._topic)
            return False
        copies: dict[int, str | None] = {}
        try:
            for row in rows:
                if row[TOPIC] == self._topic:
                    copies[row[ID]] = "it was refused by this very topic"
                else:
                    await producer.acknowledged(await producer.send(self._as_dead_letter(row, partitions)))
                    copies[row[ID]] = None
        except (PoisonEvent, PoisonBatch) as error:
            logger.warning("dead letter %d stays in the database only: %s", row[ID], error)
            copies[row[ID]] = str(error)
            # One that is refused again is enough to know that nothing has changed.
            self._copy_again_at = time.monotonic() + COPY_AGAIN_SECONDS
            await self.stop()
        except TopicUnavailable as error:
            # It may be described but not written to, or was deleted: all are copied later, nothing else waits for it.
            await self.stop()
            self._shared.miss(self._topic, self._rules.unusable_seconds(error))
            return False
        with translate():
            async with self._pool.acquire() as conn:
                await outbox_held.mark_copied(conn, copies)
        return True

    def _as_dead_letter(
        self, row: asyncpg.Record, partitions: Mapping[str, int]
    ) -> Mapping[tuple[str, int], Sequence[Message]]:
        """The event as it was, for the dead-letter topic, with why and when it was given up."""
        assert self._topic is not None
        message, (_, partition) = self._encoder.unusual(
            row[:COLUMNS], {row[TOPIC]: partitions[self._topic]}, _death(row)
        )
        return {(self._topic, partition): [message]}

    async def _session(self) -> KafkaProducer:
        if self._producer is None:
            producer = self._connect()
            await producer.start()
            self._producer = producer
        return self._producer


def _death(row: asyncpg.Record) -> Headers:
    values = {
        "marty-original-topic": row["topic"],
        "marty-error": row["error"] or "",
        "marty-cause": row["cause"] or "",
        "marty-attempts": str(row["attempts"]),
        "marty-first-failed-at": row["first_failed_at"].isoformat(),
        "marty-last-failed-at": row["last_failed_at"].isoformat(),
    }
    return [(name, value.encode()) for name, value in values.items()]


def _name(row: asyncpg.Record) -> str | int:
    """An aggregate's events share it."""
    name: str | int = row[AGGREGATE_ID] if row["in_order"] else row[ID]
    return name


def _sendable(rows: Sequence[asyncpg.Record]) -> Sequence[Sequence[asyncpg.Record]]:
    """Per aggregate what may go now: from the first on, up to one that is dead or whose time has not come."""
    chains: dict[str | int, list[asyncpg.Record]] = {}
    ended: set[str | int] = set()
    for row in rows:
        name = _name(row)
        if name in ended:
            continue
        if row["state"] == "Dead" or row["delayed"] or (name not in chains and not row["first"]):
            ended.add(name)
            continue
        chains.setdefault(name, []).append(row)
    return list(chains.values())
