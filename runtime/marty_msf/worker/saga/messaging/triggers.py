"""Kafka triggers: the instances an event starts and the position behind it commit together."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from marty_msf.core.cloudevents import envelope
from marty_msf.core.errors import InvalidDefinition, LeaseLost, LockUnavailable, PoisonEvent
from marty_msf.core.saga.trigger import Trigger, wanted
from marty_msf.core.trace import TRACEPARENT
from marty_msf.store import saga_start
from marty_msf.store.database import translate
from marty_msf.store.saga_trigger import PoisonTrigger
from marty_msf.worker.kafka_input import Batch, KafkaInput, Record
from marty_msf.worker.saga import tracing
from marty_msf.worker.saga.memory import Memory
from marty_msf.worker.saga.messaging.parked_events import ParkedEvents, poison
from marty_msf.worker.saga.starts import Prepared, Starter

logger = logging.getLogger(__name__)

BATCH_RECORDS: Final = 500
WAIT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Pass:
    """What one batch did."""

    events: int
    started: int
    parked: int


@dataclass(slots=True)
class _Starts:
    prepared: dict[str, Prepared] = field(default_factory=dict)
    poison: list[PoisonTrigger] = field(default_factory=list)


class Triggers:
    """Starts instances from events. An event that cannot start one is kept in marty.saga_parked_event; others go on."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        kafka: KafkaInput,
        triggers: Sequence[Trigger],
        starter: Starter,
        memory: Memory,
        parked: ParkedEvents,
        resource: str,
    ) -> None:
        self._pool = pool
        self._kafka = kafka
        self._triggers = triggers
        self._starter = starter
        self._memory = memory
        self._parked = parked
        self._resource = resource

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`. Raises DatabaseUnavailable; then nothing of the batch was committed, or all of it."""
        while not stop.is_set():
            await self._parked.look()
            await self.run_once()

    async def run_once(self) -> Pass:
        """Start what one batch of events asks for."""
        batch = await self._kafka.next(BATCH_RECORDS, WAIT_SECONDS)
        if batch is None:
            return Pass(0, 0, 0)
        starts = self._starts(batch)
        try:
            started = await self._commit(batch, starts)
        except LeaseLost as error:
            logger.info("a batch of trigger events goes to another worker: %s", error)
            self._kafka.rewind()
            return Pass(len(batch.records), 0, 0)
        except LockUnavailable as error:
            logger.warning(
                "a batch of trigger events is read again: a transaction that has not ended yet starts an instance with "
                "one of their business keys, or locks tables of marty: %s",
                error,
            )
            self._kafka.rewind()
            return Pass(len(batch.records), 0, 0)
        self._kafka.committed(batch)
        if starts.poison:
            await self._parked.tell()
        return Pass(len(batch.records), started, len(starts.poison))

    async def _commit(self, batch: Batch, starts: _Starts) -> int:
        with self._memory.writing(), translate():
            async with self._pool.acquire() as conn:
                async with conn.transaction():
                    await saga_start.wait_shortly_within(conn)
                    await self._kafka.commit(conn, batch)
                    if starts.poison:
                        await self._parked.keep(conn, starts.poison)
                    placed = await self._starter.write(conn, starts.prepared) if starts.prepared else {}
                self._starter.hand_over(starts.prepared, placed)
        return sum(place.created for place in placed.values())

    def _starts(self, batch: Batch) -> _Starts:
        starts = _Starts()
        for record in batch.records:
            attributes = envelope(record.headers)
            try:
                for want in wanted(self._triggers, record.topic, attributes, record.value):
                    # The first event with a key starts the instance, in this batch as between batches.
                    if want.business_key not in starts.prepared:
                        starts.prepared[want.business_key] = self._starter.prepare(
                            want.business_key, want.context, _trace(record)
                        )
            except (PoisonEvent, InvalidDefinition) as error:
                starts.poison.append(poison(record, attributes.id, str(error)))
            except Exception as error:
                # Whatever one event does to its reader, it must not hold up the others: a person sees it parked.
                logger.exception("%s: a trigger event could not be read", self._resource)
                starts.poison.append(poison(record, attributes.id, f"{type(error).__name__}: {error}"))
        return starts


def _trace(record: Record) -> str | None:
    """The trace that the event belongs to."""
    header = record.headers.get(TRACEPARENT)
    return tracing.by_message(record.topic, header.decode(errors="replace") if header else None)
