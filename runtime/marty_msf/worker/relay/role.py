"""The relay as the service shell runs it: owns the outbox and its lanes, keeps a producer, reports what stands in its way."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from marty_msf.core.errors import BrokerUnavailable, LeaseLost, TopicUnavailable
from marty_msf.core.lanes import LANES
from marty_msf.core.resources.outbox_relay import RelayRetry
from marty_msf.core.worker_config import RelayConfig
from marty_msf.core.worker_status import Local, ProblemReason, RelayTotals
from marty_msf.store import outbox, outbox_position
from marty_msf.store.database import translate
from marty_msf.worker.backoff import Backoff, pause
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.ownership import LaneOwner
from marty_msf.worker.relay.janitor import Janitor
from marty_msf.worker.relay.metrics import RelayMetrics
from marty_msf.worker.relay.numbers import Numbers
from marty_msf.worker.relay.pipeline import Pass, Relay
from marty_msf.worker.role import Context

logger = logging.getLogger(__name__)

#: The first wait after work; it doubles up to spec.pollingIntervalMs, so that a live stream is read at once.
FIRST_IDLE_SECONDS: Final = 0.005
OWN_EVERY_SECONDS: Final = outbox_position.OWNER_TTL_SECONDS / 12
#: Part of the pod's grace period in which events in flight may still be acknowledged.
FINISH_SECONDS: Final = 12
#: Events that are too large, in the problem's text.
CAUSES_SHOWN: Final = 3


class _TopicRetry:
    """When the lanes that wait for a topic or its limit are tried again; the other lanes go on meanwhile."""

    def __init__(self, retry: RelayRetry) -> None:
        self._backoff = Backoff(retry.backoff_ms / 1000, retry.max_backoff_ms / 1000)
        self._at: float | None = None

    def due(self, done: Pass, now: float) -> bool:
        """Whether now is the time; `now` is in seconds of a monotonic clock."""
        if not (done.missing_topics or done.refused):
            self._at = None
            self._backoff.reset()
            return False
        if done.blocked and self._at is None:
            self._at = now + self._backoff.next()
        if self._at is None or now < self._at:
            return False
        self._at = None
        return True


class RelayRole:
    """Publishes the outbox of one database."""

    def __init__(self, context: Context, config: RelayConfig) -> None:
        self._context = context
        self._board = context.board
        self._spec = config.spec
        self._scope = f"relay:{config.resource}"
        self._started_at = datetime.now(UTC).isoformat()
        self._numbers = Numbers(context.pool)
        self._metrics = RelayMetrics(context.registry)
        self._held = 0
        #: topic -> largest batch it takes, where that is less than usual; learned by refusals.
        self._batch_bytes: dict[str, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """See Role.run. Raises DatabaseUnavailable, OutboxOwned and OutboxRestored; waits out what Kafka refuses."""
        with translate():
            async with self._context.pool.acquire() as conn:
                await outbox_position.own(conn, self._context.resource)
                database = await outbox.database_name(conn)
        backoff = Backoff(self._spec.retry.backoff_ms / 1000, self._spec.retry.max_backoff_ms / 1000)
        producer = await self._connected(stop, backoff)
        if producer is None:
            return
        relay = Relay(
            self._context.pool,
            producer,
            scope=self._scope,
            holder=self._context.holder,
            resource=self._context.resource,
            database=database,
            batch_size=self._spec.batch_size,
            prefetch=self._spec.prefetch_count,
        )
        owner = LaneOwner(self._context.pool, self._scope, self._context.holder, range(LANES), relay)
        janitor = Janitor(
            self._context.pool,
            self._context.holder,
            timedelta(hours=self._spec.retention.published_hours),
            self._spec.retention.archive_table,
            self._board,
            self._metrics.retention,
        )
        finished = asyncio.Event()
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(self._keep_outbox(finished))
                tasks.create_task(owner.run(finished))
                tasks.create_task(janitor.run(finished))
                tasks.create_task(self._publish(relay, owner, producer, backoff, stop, finished))
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._show_lanes(0)

    async def totals(self) -> RelayTotals:
        """See Role.totals."""
        return await self._numbers.totals()

    def local(self) -> Local:
        """See Role.local."""
        return Local(holder=self._context.holder, lanes=self._held, started_at=self._started_at)

    def routes(self) -> Sequence[web.RouteDef]:
        """None of its own."""
        return ()

    async def _publish(
        self,
        relay: Relay,
        owner: LaneOwner,
        producer: KafkaProducer | None,
        backoff: Backoff,
        stop: asyncio.Event,
        finished: asyncio.Event,
    ) -> None:
        """Pump until `stop`; after an error of Kafka wait and go on with a new producer where the last one stopped."""
        topics = _TopicRetry(self._spec.retry)
        try:
            while producer is not None:
                try:
                    finished_all = await self._pump(relay, owner, backoff, topics, stop)
                except (BrokerUnavailable, TopicUnavailable) as error:
                    self._board.report_error(error)
                    await relay.forget()
                    await pause(stop, backoff.next())
                else:
                    if finished_all:
                        await self._finish(relay)
                        return
                finally:
                    await producer.stop()
                producer = await self._connected(stop, backoff)
                if producer is not None:
                    await relay.restart(producer)
        finally:
            # Whatever ended the pump: nothing of it is in flight any more, so that draining lanes does not wait.
            await relay.forget()
            finished.set()

    async def _finish(self, relay: Relay) -> None:
        """Let what is in flight be acknowledged and marked."""
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                self._metrics.published.inc(await relay.finish())
        except (TimeoutError, LeaseLost) as error:
            logger.warning("events in flight were not marked at the end, so they are sent again: %s", error)

    async def _pump(
        self, relay: Relay, owner: LaneOwner, backoff: Backoff, topics: _TopicRetry, stop: asyncio.Event
    ) -> bool:
        """True at `stop`, False when the producer's session is over."""
        idle_seconds = FIRST_IDLE_SECONDS
        while not stop.is_set():
            try:
                done = await relay.run_once()
            except LeaseLost as error:
                logger.info("%s", error)
                await relay.forget()
                owner.lost(list(relay.lanes))
                continue
            self._metrics.published.inc(done.published)
            self._show_lanes(len(owner.held))
            if done.published:
                backoff.reset()
            self._report(done, owner)
            if topics.due(done, time.monotonic()):
                relay.unblock()
            if done.spoiled:
                return False
            if not done.idle:
                idle_seconds = FIRST_IDLE_SECONDS
                continue
            await pause(stop, idle_seconds)
            idle_seconds = min(idle_seconds * 2, self._spec.polling_interval_ms / 1000)
        return True

    def _report(self, done: Pass, owner: LaneOwner) -> None:
        if done.missing_topics:
            names = ", ".join(sorted(done.missing_topics))
            self._board.report(
                ProblemReason.TOPIC_UNAVAILABLE,
                f"Kafka topic {names} is missing or forbidden to us: create it or grant Write on it; "
                f"{done.blocked} of {LANES} lanes wait for it, no event is lost",
                blocking=False,
            )
        if done.refused:
            causes = "; ".join(sorted(set(map(str, done.refused)))[:CAUSES_SHOWN])
            self._board.report(
                ProblemReason.POISON_EVENT, f"{len(done.refused)} of {LANES} lanes wait: {causes}", blocking=False
            )
        if owner.ready.is_set():
            over = {problem.reason for problem in self._board.current()} - {ProblemReason.OUTBOX_NOT_EMPTIED}
            if done.missing_topics:
                over.discard(ProblemReason.TOPIC_UNAVAILABLE)
            if done.refused:
                over.discard(ProblemReason.POISON_EVENT)
            if over:
                self._board.clear(*over)

    async def _connected(self, stop: asyncio.Event, backoff: Backoff) -> KafkaProducer | None:
        """A started producer; waits for the broker. None when stopped meanwhile."""
        while not stop.is_set():
            producer = KafkaProducer(self._spec.kafka.bootstrap_servers, self._batch_bytes)
            try:
                await producer.start()
            except BrokerUnavailable as error:
                # Whoever comes here has reached the database.
                self._board.clear(
                    ProblemReason.STARTING, ProblemReason.DATABASE_UNAVAILABLE, ProblemReason.SCHEMA_OUTDATED
                )
                self._board.report_error(error)
                await pause(stop, backoff.next())
            else:
                return producer
        return None

    async def _keep_outbox(self, finished: asyncio.Event) -> None:
        """Stay the outbox's relay, and keep the gauges fresh meanwhile."""
        while not finished.is_set():
            with translate():
                async with self._context.pool.acquire() as conn:
                    await outbox_position.own(conn, self._context.resource)
            self._metrics.show(await self._numbers.totals(), await self._numbers.oldest_writer())
            with suppress(TimeoutError):
                async with asyncio.timeout(OWN_EVERY_SECONDS):
                    await finished.wait()

    def _show_lanes(self, lanes: int) -> None:
        self._held = lanes
        self._metrics.lanes.set(lanes)
