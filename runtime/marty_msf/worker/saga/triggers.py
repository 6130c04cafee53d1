"""Kafka triggers: the instances an event starts and the position behind it commit together."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from marty_msf.core.cloudevents import Envelope, envelope
from marty_msf.core.errors import InvalidDefinition, LeaseLost, PoisonEvent
from marty_msf.core.saga.trigger import Trigger, wanted
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import saga_trigger
from marty_msf.store.database import translate
from marty_msf.store.saga_trigger import PoisonTrigger
from marty_msf.worker.board import Board
from marty_msf.worker.kafka_input import Batch, KafkaInput, Record
from marty_msf.worker.saga.memory import Memory
from marty_msf.worker.saga.starts import Prepared, Starter

logger = logging.getLogger(__name__)

BATCH_RECORDS: Final = 500
WAIT_SECONDS: Final = 1.0
#: How soon the board follows when a person removes parked events.
TELL_SECONDS: Final = 10.0
COUNTED: Final = 1000
_ID_CHARACTERS: Final = 500
_ERROR_CHARACTERS: Final = 2000


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
        board: Board,
        resource: str,
    ) -> None:
        self._pool = pool
        self._kafka = kafka
        self._triggers = triggers
        self._starter = starter
        self._memory = memory
        self._board = board
        self._resource = resource

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`. Raises DatabaseUnavailable; then nothing of the batch was committed, or all of it."""
        told = float("-inf")
        while not stop.is_set():
            if time.monotonic() - told > TELL_SECONDS:
                await self.tell_parked()
                told = time.monotonic()
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
        self._kafka.committed(batch)
        if starts.poison:
            await self.tell_parked()
        return Pass(len(batch.records), started, len(starts.poison))

    async def tell_parked(self) -> None:
        """Put the parked events on the board, or take the problem down when a person removed them."""
        with translate():
            async with self._pool.acquire() as conn:
                parked = await saga_trigger.newest_parked(conn, self._resource, COUNTED)
        if parked is None:
            self._board.clear(ProblemReason.POISON_EVENT)
            return
        count, event = parked
        self._board.report(
            ProblemReason.POISON_EVENT,
            f"{count}{' or more' if count == COUNTED else ''} trigger events started nothing and wait in"
            f" marty.saga_parked_event, the others went on; the newest, topic {event.topic!r} partition {event.partition}"
            f" offset {event.offset}: {event.error}",
            blocking=False,
        )

    async def _commit(self, batch: Batch, starts: _Starts) -> int:
        with self._memory.writing(), translate():
            async with self._pool.acquire() as conn:
                async with conn.transaction():
                    await self._kafka.commit(conn, batch)
                    if starts.poison:
                        await saga_trigger.park_events(conn, self._resource, self._starter.slot, starts.poison)
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
                        starts.prepared[want.business_key] = self._starter.prepare(want.business_key, want.context)
            except (PoisonEvent, InvalidDefinition) as error:
                starts.poison.append(_poison(record, attributes, str(error)))
            except Exception as error:
                # Whatever one event does to its reader, it must not hold up the others: a person sees it parked.
                logger.exception("%s: a trigger event could not be read", self._resource)
                starts.poison.append(_poison(record, attributes, f"{type(error).__name__}: {error}"))
        return starts


def _poison(record: Record, attributes: Envelope, error: str) -> PoisonTrigger:
    return PoisonTrigger(
        record.topic,
        record.partition,
        record.offset,
        attributes.id[:_ID_CHARACTERS].replace("\0", ""),
        error[:_ERROR_CHARACTERS].replace("\0", "").encode(errors="replace").decode(),
        record.key,
        record.value,
    )
