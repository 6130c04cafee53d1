"""What an event bus runs between start and stop: the reader of Kafka, the loop over its events, the inbox's upkeep."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns.choreography.consumer import Consumer, Retries
from marty_msf.patterns.choreography.event import Received
from marty_msf.patterns.choreography.handling import EventHandler, HandlerFailed, Handling, Ongoing, whole
from marty_msf.store import inbox
from marty_msf.store.database import translate
from marty_msf.store.inbox import Parked
from marty_msf.worker.backoff import pause
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_input import KafkaInput
from marty_msf.worker.ownership import any_of
from marty_msf.worker.role import Context
from marty_msf.worker.service import supervise

ROLE: Final = "events"
#: How often old entries of the inbox are forgotten, and how many with one statement.
PRUNE_SECONDS: Final = 60.0
PRUNE_LIMIT: Final = 1000


class Running:
    """Handles events, again and again after losses of the database, until `stop`."""

    def __init__(
        self,
        context: Context,
        handlers: Mapping[str, Sequence[EventHandler]],
        *,
        connection: KafkaConnection,
        topics: Sequence[str],
        retries: Retries,
        timeout_seconds: float,
        remember_hours: int,
        concurrency: int,
    ) -> None:
        self.context = context
        #: Who has handled an event, in marty.inbox.
        self.consumer = f"{ROLE}:{context.resource}"
        self._handles = bool(handlers)
        self._connection = connection
        self._topics = topics
        self._retries = retries
        self._remember_hours = remember_hours
        self._concurrency = concurrency
        self._handling = Handling(context.pool, self.consumer, handlers, timeout_seconds)
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; a bus without handlers has nothing to do."""
        if self._handles:
            self._task = asyncio.create_task(supervise(self, self.context.pool, self.context.board, self._stop))

    async def stop(self) -> None:
        """Finish the events in work and hand the partitions back."""
        self._stop.set()
        if self._task:
            await self._task

    def called(self, ongoing: Ongoing) -> bool:
        """Whether this very task is a handler that was called here."""
        return ongoing.handling is self._handling and ongoing.task is asyncio.current_task()

    @property
    def ended_by(self) -> BaseException | None:
        """What ended the handling for good, before `stop`."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def run(self, stop: asyncio.Event) -> None:
        """Read and handle until `stop`. Raises DatabaseUnavailable; Kafka's problems are waited out."""
        self.context.board.clear(ProblemReason.DATABASE_UNAVAILABLE, ProblemReason.SCHEMA_OUTDATED)
        kafka = KafkaInput(self.context, role=ROLE, connection=self._connection, topics=self._topics)
        consumer = Consumer(
            self.context.pool,
            kafka,
            self._handling,
            consumer=self.consumer,
            holder=self.context.holder,
            retries=self._retries,
            concurrency=self._concurrency,
        )
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(kafka.run(stop))
                tasks.create_task(consumer.run(stop))
                tasks.create_task(self._forget(stop))
                tasks.create_task(self._begin(kafka, stop))
        except BaseExceptionGroup as group:
            raise first_error(group) from group

    async def redrive_first(self, number: int, key: bytes | None) -> bool:
        """Handle the first parked event of a key, or this one without a key; False when there is none any more.

        Raises HandlerFailed; then its row says why.
        """
        parked: Parked | None = None
        try:
            with translate():
                async with self.context.pool.acquire() as conn, whole(conn):
                    parked = await inbox.first(conn, self.consumer, number, key)
                    if parked is None:
                        return False
                    remove = partial(
                        inbox.remove, consumer=self.consumer, source=parked.source, event_id=parked.event_id
                    )
                    if (await inbox.record(conn, self.consumer, parked.source, parked.event_id, None)).fresh:
                        await self._handling.run(conn, Received.of_parked(parked), remove)
                    else:
                        await remove(conn)
        except HandlerFailed as failure:
            # Whatever became of that transaction. A row that somebody else took away meanwhile stays away.
            assert parked is not None, "one was handled"
            with translate():
                async with self.context.pool.acquire() as conn:
                    await inbox.failed(conn, self.consumer, parked.source, parked.event_id, str(failure))
            raise
        return True

    async def _begin(self, kafka: KafkaInput, stop: asyncio.Event) -> None:
        """Until Kafka was asked for the topics: from then on its own problems say why nothing is read."""
        await any_of(kafka.looked, stop)
        self.context.board.clear(ProblemReason.STARTING)

    async def _forget(self, stop: asyncio.Event) -> None:
        """Remove what no redelivery can reach, a little at a time."""
        while not stop.is_set():
            with translate():
                async with self.context.pool.acquire() as conn:
                    gone = await inbox.prune(conn, self.consumer, self._remember_hours, PRUNE_LIMIT)
            if gone < PRUNE_LIMIT:
                await pause(stop, PRUNE_SECONDS)
