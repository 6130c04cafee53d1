"""Replies come in: from Kafka into marty.saga_reply, in the transaction that moves the position behind them.

Whoever reads a partition need not own the instances that its replies are for: the owners of their lanes find them there.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from marty_msf.core.cloudevents import envelope
from marty_msf.core.errors import InvalidDefinition, LeaseLost, PoisonEvent
from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.command import CORRELATION, Reply, read_reply
from marty_msf.store import saga_reply
from marty_msf.store.database import translate
from marty_msf.store.saga_reply import Addressee, CallKey, Received
from marty_msf.store.saga_trigger import PoisonTrigger
from marty_msf.worker.kafka_input import Batch, KafkaInput, Record
from marty_msf.worker.saga.definitions import Definitions
from marty_msf.worker.saga.messaging.parked_events import ParkedEvents, poison

logger = logging.getLogger(__name__)

BATCH_RECORDS: Final = 500
WAIT_SECONDS: Final = 0.3
#: States in which no call is open and none is made again.
ENDED: Final = frozenset({"Completed", "Compensated", "Failed", "Cancelled"})


@dataclass(frozen=True, slots=True)
class Pass:
    """What one batch did."""

    messages: int = 0
    #: Handed to the owners of the instances.
    kept: int = 0
    #: Duplicates within the batch, for instances that have ended, or for other sagas.
    ignored: int = 0
    parked: int = 0


@dataclass(slots=True)
class _Sorted:
    replies: dict[CallKey, Received] = field(default_factory=dict)
    poison: list[PoisonTrigger] = field(default_factory=list)


class Replies:
    """Reads reply topics. What is no reply to a command of this saga is kept aside; others go on."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        kafka: KafkaInput,
        definitions: Definitions,
        parked: ParkedEvents,
        resource: str,
        arrived: Callable[[Collection[int]], None],
    ) -> None:
        """`arrived` hears of the lanes of replies that are durable now."""
        self._pool = pool
        self._kafka = kafka
        self._definitions = definitions
        self._parked = parked
        self._resource = resource
        self._arrived = arrived

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`. Raises DatabaseUnavailable; then nothing of the batch was committed, or all of it."""
        while not stop.is_set():
            await self._parked.look()
            await self.run_once()

    async def run_once(self) -> Pass:
        """Bring one batch in."""
        batch = await self._kafka.next(BATCH_RECORDS, WAIT_SECONDS)
        if batch is None:
            return Pass()
        found = await self._sorted(batch)
        try:
            with translate():
                async with self._pool.acquire() as conn, conn.transaction():
                    await self._kafka.commit(conn, batch)
                    if found.replies:
                        await saga_reply.add(conn, self._resource, found.replies.values())
                    if found.poison:
                        await self._parked.keep(conn, found.poison)
        except LeaseLost as error:
            logger.info("a batch of replies goes to another worker: %s", error)
            self._kafka.rewind()
            return Pass(len(batch.records))
        self._kafka.committed(batch)
        if found.replies:
            self._arrived({it.lane for it in found.replies.values()})
        if found.poison:
            await self._parked.tell()
        kept, parked = len(found.replies), len(found.poison)
        return Pass(len(batch.records), kept, len(batch.records) - kept - parked, parked)

    async def _sorted(self, batch: Batch) -> _Sorted:
        """The replies that somebody may wait for, one for each call, and what cannot be used."""
        found = _Sorted()
        replies: list[tuple[Record, Reply]] = []
        for record in batch.records:
            try:
                reply = read_reply(self._resource, record.headers, record.value)
            except PoisonEvent as error:
                found.poison.append(self._poison(record, str(error)))
                continue
            if reply is not None:
                replies.append((record, reply))
        instances = await self._addressees({reply.saga_id for _, reply in replies})
        for record, reply in replies:
            instance = instances.get(reply.saga_id)
            if instance is not None and instance.state in ENDED:
                continue
            problem = self._problem(reply, instance)
            if instance is None or problem is not None:
                found.poison.append(self._poison(record, problem or ""))
                continue
            self._add(found.replies, reply, instance.lane)
        return found

    async def _addressees(self, ids: Collection[UUID]) -> Mapping[UUID, Addressee]:
        """The instances of this saga among them, their definitions at hand."""
        if not ids:
            return {}
        with translate():
            async with self._pool.acquire() as conn:
                instances = await saga_reply.addressees(conn, self._resource, ids)
        await self._definitions.load({it.revision for it in instances.values() if it.state not in ENDED})
        return instances

    def _problem(self, reply: Reply, instance: Addressee | None) -> str | None:
        """Why nobody will ever wait for this reply."""
        if instance is None:
            return f"saga {self._resource} has no instance {reply.saga_id}: was the reply meant for another database?"
        try:
            steps = self._definitions.get(instance.revision).steps
        except InvalidDefinition as error:
            return str(error)
        if not any(step.name == reply.step and isinstance(step.call, KafkaCall) for step in steps):
            return f"instance {reply.saga_id} has no step {reply.step!r} that is called over Kafka"
        return None

    def _poison(self, record: Record, error: str) -> PoisonTrigger:
        correlation = (record.headers.get(CORRELATION) or b"").decode(errors="replace")
        return poison(record, correlation or envelope(record.headers).id, error)

    @staticmethod
    def _add(replies: dict[CallKey, Received], reply: Reply, lane: int) -> None:
        """The first final answer to a call counts."""
        key = (reply.saga_id, reply.call)
        before = replies.get(key)
        if before is None or (before.outcome == "failed" and reply.outcome.final):
            replies[key] = Received(reply.saga_id, reply.call, lane, reply.outcome.value, reply.value)
