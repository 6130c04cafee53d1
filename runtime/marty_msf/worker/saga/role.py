"""The saga worker as the service shell runs it: engine, callers, triggers, and the numbers it reports."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aiohttp import web

from marty_msf.core.resources.kinds import Role
from marty_msf.core.saga.breaker import Phase
from marty_msf.core.saga.caching import Cache
from marty_msf.core.saga.calling import PythonCall, SecretFile
from marty_msf.core.saga.definition import Step
from marty_msf.core.saga.trigger import compiled
from marty_msf.core.worker_config import SECRETS_DIRECTORY, SagaConfig
from marty_msf.core.worker_status import BreakerState, Local, ProblemReason, SagaTotals
from marty_msf.store import saga_breaker, saga_instance
from marty_msf.store.database import translate
from marty_msf.worker.backoff import pause
from marty_msf.worker.board_shares import Shares
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_input import KafkaInput
from marty_msf.worker.role import Context
from marty_msf.worker.saga.calling import user_code
from marty_msf.worker.saga.calling.callers import Callers
from marty_msf.worker.saga.calling.calls import Caller
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.calling.http_caller import HttpCaller
from marty_msf.worker.saga.calling.http_client import session
from marty_msf.worker.saga.calling.reachability import Reachability
from marty_msf.worker.saga.calling.redis_cache import RedisCache
from marty_msf.worker.saga.calling.secret_files import SecretFiles
from marty_msf.worker.saga.calling.step_cache import StepCache
from marty_msf.worker.saga.definitions import Definitions
from marty_msf.worker.saga.engine import Engine
from marty_msf.worker.saga.history.janitor import Janitor
from marty_msf.worker.saga.messaging.kafka_calls import KafkaCalls
from marty_msf.worker.saga.messaging.parked_events import ParkedEvents
from marty_msf.worker.saga.messaging.triggers import Triggers
from marty_msf.worker.saga.metrics import BOUNDS_MS, SagaMetrics
from marty_msf.worker.saga.stuck import StuckWatch
from marty_msf.worker.saga.surface.routes import Routes
from marty_msf.worker.saga.tracing import traced

LOOK_SECONDS: Final = 5.0
#: What people see of a breaker; one that is closed is not worth a line.
BREAKER_STATES: Final = MappingProxyType(
    {
        Phase.OPEN.value: BreakerState.OPEN,
        Phase.PROBING.value: BreakerState.HALF_OPEN,
        Phase.RECOVERING.value: BreakerState.HALF_OPEN,
    }
)


class SagaRole:
    """One Saga resource in this process."""

    def __init__(self, context: Context, config: SagaConfig, caller: Caller | None = None) -> None:
        """Steps are called as they say unless another `caller` is given. Raises InvalidDefinition."""
        self._context = context
        self._board = context.board
        self._spec = config.spec
        self._caller = caller
        self._triggers = compiled(config.spec)
        self._definitions = Definitions(context.pool, context.resource, config.spec)
        self._metrics = SagaMetrics(context.registry)
        self._janitor = Janitor(
            context.pool,
            context.resource,
            context.holder,
            config.spec.retention.completed_hours,
            context.board,
            self._metrics.history,
        )
        self._reachability = Reachability(context.board, time.time)
        bound_seconds = config.spec.stuck_after_seconds
        self._stuck = StuckWatch(context.pool, context.resource, bound_seconds, context.board)
        self._look_seconds = min(LOOK_SECONDS, bound_seconds / 4)
        self._routes = Routes(context.pool, context.resource)
        self._engine: Engine | None = None
        self._handlers: Handlers | None = None
        #: Of all engines this role had, see Engine.
        self._worked: dict[int, int] = {}
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")

    async def run(self, stop: asyncio.Event) -> None:
        """See Role.run. Raises DatabaseUnavailable, SchemaOutdated and HandlersUnusable; Kafka's problems never stop running instances."""
        self._board.clear(ProblemReason.INTERNAL_ERROR)
        shares = Shares(self._board)
        kafka_calls = (
            KafkaCalls(self._context, KafkaConnection.of(self._spec.kafka), self._definitions, shares)
            if self._spec.kafka
            else None
        )
        if kafka_calls:
            self._metrics.open_commands.set_function(kafka_calls.commands.__len__)
        async with self._calling() as (caller, cache):
            engine = Engine(
                self._context.pool,
                resource=self._context.resource,
                holder=self._context.holder,
                definitions=self._definitions,
                caller=caller,
                workers=self._spec.workers,
                ended=self._metrics.ended.ended,
                broken=self._tell_broken,
                worked=self._worked,
                calls=self._metrics.calls,
                messenger=kafka_calls.commands if kafka_calls else None,
                cache=cache,
            )
            parked = ParkedEvents(self._context.pool, self._board, self._context.resource, engine.starter.slot)
            self._engine = self._routes.engine = engine
            try:
                async with TaskGroup() as tasks:
                    tasks.create_task(engine.run(stop))
                    tasks.create_task(self._look(engine, stop))
                    if kafka_calls:
                        tasks.create_task(kafka_calls.run(engine.memory, parked, engine.hasten, stop))
                    tasks.create_task(self._janitor.run(stop))
                    if self._triggers and self._spec.kafka:
                        kafka = KafkaInput(
                            replace(self._context, board=shares.share()),
                            role=Role.SAGA.value,
                            connection=KafkaConnection.of(self._spec.kafka),
                            topics=[trigger.topic for trigger in self._triggers],
                            blocking=False,
                        )
                        triggers = Triggers(
                            self._context.pool,
                            kafka,
                            self._triggers,
                            engine.starter,
                            engine.memory,
                            parked,
                            self._context.resource,
                        )
                        tasks.create_task(kafka.run(stop))
                        tasks.create_task(triggers.run(stop))
            except BaseExceptionGroup as group:
                raise first_error(group) from group
            finally:
                self._engine = self._routes.engine = None

    @property
    def engine(self) -> Engine | None:
        """The engine at work; None while there is none."""
        return self._engine

    async def totals(self) -> SagaTotals:
        """From the counter rows that every worker of this saga keeps."""
        with translate():
            async with self._context.pool.acquire() as conn:
                numbers = await saga_instance.totals(conn, self._context.resource)
                breakers = await saga_breaker.read(conn, self._context.resource)
        ended = numbers.completed + numbers.compensated + numbers.failed + numbers.cancelled
        return SagaTotals(
            active=max(numbers.started - ended - numbers.parked, 0),
            completed=numbers.completed,
            compensated=numbers.compensated,
            failed=numbers.failed,
            cancelled=numbers.cancelled,
            parked=numbers.parked,
            breakers={row.service: BREAKER_STATES[row.phase] for row in breakers if row.phase in BREAKER_STATES},
            average_duration_ms=round(numbers.duration_ms / ended, 1) if ended else 0,
            oldest_active_seconds=round(numbers.oldest_active_seconds, 1),
            definition_revision=self._definitions.current.revision,
            last_error=numbers.last_error,
        )

    def local(self) -> Local:
        """This process's lanes and durations."""
        return Local(
            holder=self._context.holder,
            lanes=len(self._engine.memory.epochs) if self._engine else 0,
            started_at=self._started_at,
            duration_bucket_bounds_ms=list(BOUNDS_MS),
            duration_bucket_counts=self._metrics.ended.counts,
            active_by_revision=dict(self._engine.memory.by_revision()) if self._engine else None,
            stuck=self._stuck.found if self._engine else None,
        )

    def routes(self) -> Sequence[web.RouteDef]:
        """See Role.routes."""
        return self._routes.definitions()

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[tuple[Caller, StepCache]]:
        if self._caller is not None:
            yield (
                self._caller,
                StepCache(self._context.resource, self._spec.step_cache.max_bytes, numbers=self._metrics.calls),
            )
            return
        handlers, secrets = user_code.load(self._spec), SecretFiles(Path(SECRETS_DIRECTORY))
        self._handlers = handlers
        self._definitions.follow(user_code.guarded(self._spec, handlers))
        cache = self._cache(handlers, secrets)
        try:
            async with session() as client:
                caller = Callers(HttpCaller(client, self._reachability, secrets), handlers)
                yield traced(caller, self._context.resource), cache
        finally:
            handlers.close()
            await cache.close()

    def _cache(self, handlers: Handlers, secrets: SecretFiles) -> StepCache:
        wanted, shared = self._spec.step_cache, None
        if wanted.redis:
            named = wanted.redis.url_secret_ref
            shared = RedisCache(partial(secrets.redis_url, SecretFile(named.name, named.key)))

        def of_handler(step: Step) -> Cache | None:
            return handlers.cache(step.call.handler) if isinstance(step.call, PythonCall) else None

        return StepCache(
            self._context.resource,
            wanted.max_bytes,
            shared=shared,
            of_handler=of_handler,
            numbers=self._metrics.calls,
        )

    async def _look(self, engine: Engine, stop: asyncio.Event) -> None:
        """Say that the worker works, then keep gauges and the board up to date until `stop`."""
        await engine.ready.wait()
        self._board.clear(
            ProblemReason.STARTING,
            ProblemReason.DATABASE_UNAVAILABLE,
            ProblemReason.SCHEMA_OUTDATED,
            ProblemReason.HANDLERS_UNUSABLE,
        )
        while not stop.is_set():
            self._reachability.look()
            if self._handlers:
                self._handlers.look(self._board)
            self._metrics.live.set(len(engine.memory))
            self._metrics.lanes.set(len(engine.memory.epochs))
            self._metrics.breakers(engine.breakers.circuits)
            await self._stuck.look(engine)
            self._metrics.stuck(self._stuck.causes)
            self._metrics.parked_oldest.set(await self._oldest_parked_seconds())
            await pause(stop, self._look_seconds)

    async def _oldest_parked_seconds(self) -> float:
        with translate():
            async with self._context.pool.acquire() as conn:
                return await saga_instance.oldest_parked_seconds(conn, self._context.resource)

    def _tell_broken(self, instance: str, error: Exception) -> None:
        self._board.report(
            ProblemReason.INTERNAL_ERROR,
            f"instance {instance} cannot go on and is left as it is; the others do: {type(error).__name__}: {error}",
            blocking=False,
        )
