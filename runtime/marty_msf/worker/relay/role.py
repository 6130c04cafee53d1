"""The relay as the service shell runs it: owns the outbox and its lanes, keeps a producer, reports what stands in its way."""

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from aiohttp import web

from marty_msf.core.errors import BrokerUnavailable, LeaseLost, TopicUnavailable
from marty_msf.core.lanes import LANES
from marty_msf.core.worker_config import RelayConfig
from marty_msf.core.worker_status import Local, ProblemReason, RelayTotals
from marty_msf.store import outbox, outbox_position
from marty_msf.store.database import translate
from marty_msf.worker.backoff import Backoff, pause
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import Tuning
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.ownership import LaneOwner
from marty_msf.worker.relay.adopting import Who
from marty_msf.worker.relay.held_sender import HeldSender
from marty_msf.worker.relay.janitor import Janitor
from marty_msf.worker.relay.lane_publisher import LanePublisher
from marty_msf.worker.relay.lane_sessions import LaneSessions
from marty_msf.worker.relay.mapping import SourceTable
from marty_msf.worker.relay.metrics import RelayMetrics
from marty_msf.worker.relay.numbers import Numbers
from marty_msf.worker.relay.pipeline import Pass, Relay
from marty_msf.worker.relay.reading import Reader
from marty_msf.worker.relay.rules import rules_of
from marty_msf.worker.relay.shared import Shared
from marty_msf.worker.relay.surface.routes import Routes
from marty_msf.worker.relay.transactions import TransactionalLanes
from marty_msf.worker.relay.waking import Waker
from marty_msf.worker.relay.watching import BrokerWatch
from marty_msf.worker.role import Context

logger = logging.getLogger(__name__)

#: The first wait after work; it doubles up to spec.pollingIntervalMs, so that a live stream is read at once.
FIRST_IDLE_SECONDS: Final = 0.001
#: Waits of the sender of held events while nothing is due: with events held, and without any.
HELD_IDLE_SECONDS: Final = 0.1
#: While lanes wait for what is held.
CATCH_UP_LOOK_SECONDS: Final = 0.01
NOTHING_HELD_SECONDS: Final = 2.0
OWN_EVERY_SECONDS: Final = outbox_position.OWNER_TTL_SECONDS / 12
#: Part of the pod's grace period in which events in flight may still be acknowledged.
FINISH_SECONDS: Final = 12

#: Makes a producer from topic -> largest batch, which outlives it, and the deadline for acknowledgements in seconds.
Producers: TypeAlias = Callable[[MutableMapping[str, int], float], KafkaProducer]


class RelayRole:
    """Publishes the outbox of one database."""

    def __init__(self, context: Context, config: RelayConfig, producers: Producers | None = None) -> None:
        """`producers` makes them in place of `config.spec.kafka`, in a process that reaches Kafka in a way of its own."""
        self._context = context
        self._board = context.board
        self._spec = config.spec
        self._producers = producers
        self._rules = rules_of(config.spec)
        self._waker = Waker(context.pool)
        self._scope = f"relay:{config.resource}"
        self._started_at = datetime.now(UTC).isoformat()
        self._numbers = Numbers(context.pool)
        self._metrics = RelayMetrics(context.registry)
        self._watch = BrokerWatch(context.board)
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
        shared = Shared(database)
        who = {"scope": self._scope, "holder": self._context.holder, "resource": self._context.resource}
        sessions = self._sessions(shared)
        publisher = LanePublisher(producer, sessions, self._rules, shared) if sessions else None
        reader = Reader(self._context.pool)
        relay = Relay(
            self._context.pool,
            producer,
            **who,
            rules=self._rules,
            shared=shared,
            limits=self._batch_bytes,
            publisher=publisher,
            connections=reader.connection,
        )
        held = HeldSender(
            self._context.pool,
            self._producer,
            **who,
            rules=self._rules,
            shared=shared,
            dead_letter_topic=self._spec.dead_letter.topic,
            deliver=sessions.deliver if sessions else None,
        )
        user = TransactionalLanes(relay, sessions) if sessions else relay
        owner = LaneOwner(self._context.pool, self._scope, self._context.holder, range(LANES), user)
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
                tasks.create_task(self._waker.listen(finished))
                tasks.create_task(self._send_held(held, shared, finished))
                tasks.create_task(self._publish(relay, owner, producer, backoff, stop, finished, shared))
                tasks.create_task(janitor.run(finished))
                tasks.create_task(self._watch.run(finished))
                tasks.create_task(SourceTable(self._context.pool, self._spec.source, self._board).run(finished))
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            await reader.close()
            if sessions:
                await sessions.stop()
            self._show_lanes(0)

    async def totals(self) -> RelayTotals:
        """See Role.totals."""
        return await self._numbers.totals()

    def local(self) -> Local:
        """See Role.local."""
        return Local(holder=self._context.holder, lanes=self._held, started_at=self._started_at)

    def routes(self) -> Sequence[web.RouteDef]:
        """Dead letters, and the position after a restore."""
        return Routes(self._context.pool).definitions()

    async def _publish(
        self,
        relay: Relay,
        owner: LaneOwner,
        producer: KafkaProducer | None,
        backoff: Backoff,
        stop: asyncio.Event,
        finished: asyncio.Event,
        shared: Shared,
    ) -> None:
        """Pump until `stop`; after an error of Kafka wait and go on with a new producer where the last one stopped."""
        try:
            while producer is not None:
                self._watch.use(producer)
                try:
                    finished_all = await self._pump(relay, owner, backoff, stop, shared)
                except (BrokerUnavailable, TopicUnavailable) as error:
                    self._board.report_error(error)
                    await relay.forget()
                    await pause(stop, backoff.next())
                else:
                    if finished_all:
                        await self._finish(relay)
                        return
                finally:
                    self._watch.use(None)
                    await producer.stop()
                producer = await self._connected(stop, backoff)
                if producer is not None:
                    await relay.restart(producer)
                    if self._spec.kafka.producer.transactional:
                        # What became of open transactions shows when the lanes are gained again.
                        owner.lost(list(relay.lanes))
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
        self, relay: Relay, owner: LaneOwner, backoff: Backoff, stop: asyncio.Event, shared: Shared
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
                self._watch.acknowledged()
            self._report(done, owner, shared)
            if done.spoiled:
                return False
            if not done.idle:
                idle_seconds = FIRST_IDLE_SECONDS
                continue
            woken = await self._waker.wait(stop, idle_seconds)
            idle_seconds = FIRST_IDLE_SECONDS if woken else min(idle_seconds * 2, self._spec.polling_interval_ms / 1000)
        return True

    async def _send_held(self, sender: HeldSender, shared: Shared, finished: asyncio.Event) -> None:
        """Send what is held when it is due; an outage of Kafka is not held against the events."""
        backoff = Backoff(self._spec.retry.backoff_ms / 1000, self._spec.retry.max_backoff_ms / 1000)
        try:
            while not finished.is_set():
                wait = NOTHING_HELD_SECONDS
                if shared.keys or shared.keys.rows:
                    wait = CATCH_UP_LOOK_SECONDS if shared.keys.catching_up(time.monotonic()) else HELD_IDLE_SECONDS
                try:
                    done = await sender.run_once()
                except (BrokerUnavailable, TopicUnavailable, LeaseLost) as error:
                    logger.info("held events wait: %s", error)
                    await sender.stop()
                    wait = backoff.next()
                else:
                    backoff.reset()
                    self._metrics.published.inc(done.published)
                    if not done.idle:
                        continue
                await pause(finished, wait)
        finally:
            await sender.stop()

    def _report(self, done: Pass, owner: LaneOwner, shared: Shared) -> None:
        # The janitor's and the mapping's own: whether events flow tells nothing about them.
        standing = {ProblemReason.OUTBOX_NOT_EMPTIED, ProblemReason.MAPPING_INVALID}
        if self._watch.silent:
            standing.add(ProblemReason.BROKER_UNAVAILABLE)
        if shared.missing:
            standing.add(ProblemReason.TOPIC_UNAVAILABLE)
            names = ", ".join(sorted(shared.missing))
            waiting = f"; {done.blocked} of {LANES} lanes wait for it" if done.blocked else ""
            self._board.report(
                ProblemReason.TOPIC_UNAVAILABLE,
                f"Kafka topic {names} is missing or forbidden to us: create it or grant Write on it; its events, and later "
                f"ones of their aggregates, are held{waiting}, none is lost",
                blocking=False,
            )
        if dead := shared.keys.dead:
            standing.add(ProblemReason.POISON_EVENT)
            behind = "later events of the same aggregates wait" if self._rules.dead_block else "others go on"
            self._board.report(
                ProblemReason.POISON_EVENT,
                f"{dead} {'dead letter' if dead == 1 else 'dead letters'}: Kafka refused {'it' if dead == 1 else 'them'} again and "
                f"again; {behind}: see why with `marty dlq list`, then redrive, edit or discard",
                blocking=False,
            )
        if owner.ready.is_set() and (over := {problem.reason for problem in self._board.current()} - standing):
            self._board.clear(*over)

    def _producer(self) -> KafkaProducer:
        deadline_seconds = self._spec.batch_timeout_ms / 1000
        if self._producers:
            return self._producers(self._batch_bytes, deadline_seconds)
        return KafkaProducer(
            KafkaConnection.of(self._spec.kafka),
            self._batch_bytes,
            tuning=Tuning.of(self._spec.kafka.producer),
            acknowledge_seconds=deadline_seconds,
        )

    def _sessions(self, shared: Shared) -> LaneSessions | None:
        if not self._spec.kafka.producer.transactional:
            return None
        return LaneSessions(
            self._context.pool,
            KafkaConnection.of(self._spec.kafka),
            Who(self._scope, self._context.holder, self._context.resource),
            shared,
            self._batch_bytes,
            tuning=Tuning.of(self._spec.kafka.producer),
            acknowledge_seconds=self._spec.batch_timeout_ms / 1000,
            dead_block=self._rules.dead_block,
        )

    async def _connected(self, stop: asyncio.Event, backoff: Backoff) -> KafkaProducer | None:
        """A started producer; waits for the broker. None when stopped meanwhile."""
        while not stop.is_set():
            producer = self._producer()
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
