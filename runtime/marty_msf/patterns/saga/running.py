"""What an orchestrator runs between start and stop: the same engine as the pods of a Saga, supervised the same way."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from marty_msf.core.errors import DatabaseUnavailable
from marty_msf.core.saga.caching import Cache
from marty_msf.core.saga.definition import Step
from marty_msf.core.worker_config import SECRETS_DIRECTORY
from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns.saga.calling import LibraryCaller
from marty_msf.patterns.saga.compiling import Compiled
from marty_msf.patterns.saga.gate import HandlerGate, handler_name
from marty_msf.store import saga_instance
from marty_msf.store.database import translate
from marty_msf.worker.backoff import pause
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.role import Context
from marty_msf.worker.saga.calling.breaker import Breakers
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.calling.http_caller import HttpCaller
from marty_msf.worker.saga.calling.http_client import session
from marty_msf.worker.saga.calling.reachability import Reachability
from marty_msf.worker.saga.calling.secret_files import SecretFiles
from marty_msf.worker.saga.calling.step_cache import StepCache
from marty_msf.worker.saga.definitions import Revisions
from marty_msf.worker.saga.engine import Engine
from marty_msf.worker.saga.history.janitor import Janitor
from marty_msf.worker.saga.memory import Live
from marty_msf.worker.saga.metrics import SagaMetrics
from marty_msf.worker.saga.starts import Receipt
from marty_msf.worker.saga.stuck import StuckWatch
from marty_msf.worker.saga.surface.surroundings import DEFAULT_STUCK_AFTER_SECONDS
from marty_msf.worker.saga.tracing import traced
from marty_msf.worker.service import supervise, until_ended

LOOK_SECONDS: Final = 5.0
#: Of results of steps marked with cached_saga_step.
CACHE_BYTES: Final = 64 * 1024 * 1024
#: Until the engine has its lanes, however busy the database is.
START_SECONDS: Final = 30.0


class Running:
    """Works on the sagas of one name, again and again after losses of the database, until `stop`."""

    def __init__(
        self,
        context: Context,
        handlers: Handlers,
        services: Mapping[str, str],
        workers: int,
        retention_hours: int,
    ) -> None:
        self.context = context
        self.metrics = SagaMetrics(context.registry)
        self._handlers = handlers
        self._services = services
        self._workers = workers
        self._revisions = Revisions(context.pool, context.resource)
        self._reachability = Reachability(context.board, time.time)
        self._janitor = Janitor(
            context.pool, context.resource, context.holder, retention_hours, context.board, self.metrics.history
        )
        self._stuck = StuckWatch(context.pool, context.resource, DEFAULT_STUCK_AFTER_SECONDS, context.board)
        self._engine: Engine | None = None
        self._gate: HandlerGate | None = None
        self._worked: dict[int, int] = {}
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Who waits for the end of an instance, by its id.
        self._ends: dict[str, set[asyncio.Event]] = {}

    async def start(self) -> None:
        """Begin, and return once it takes sagas. Raises DatabaseUnavailable when it does not come to that."""
        self._task = asyncio.create_task(supervise(self, self.context.pool, self.context.board, self._stop))
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready.wait()
        except BaseException as error:
            await self.stop()
            if not isinstance(error, TimeoutError):
                raise
            problems = "; ".join(problem.message for problem in self.context.board.current())
            raise DatabaseUnavailable(
                f"no work began within {START_SECONDS:.0f} s: {problems or 'try again'}"
            ) from None

    async def stop(self) -> None:
        """Let calls in flight end, within bounds, and hand the lanes back."""
        self._stop.set()
        if self._task:
            await until_ended(self._task, self.context.board)

    async def begin(
        self, compiled: Compiled, business_key: str, context: Mapping[str, object], traceparent: str | None
    ) -> Receipt:
        """Start an instance. Raises InvalidDefinition, DatabaseUnavailable."""
        await self._revisions.keep(compiled.definition, compiled.stored)
        if self._engine is None:
            raise DatabaseUnavailable(
                "no sagas are taken now, the database was lost: ask again with the same business_key"
            )
        return await self._engine.starter_of(compiled.definition).start(business_key, context, traceparent)

    def handlers_changed(self) -> None:
        """A handler was registered."""
        if self._gate:
            self._gate.handlers_changed()

    def missing(self) -> list[str]:
        """Handlers that instances wait for, as sentences."""
        return self._gate.missing() if self._gate else []

    def lacking(self, saga_id: str) -> str:
        """What an instance in work here waits for because this process has no handler for it; empty for nothing."""
        live = self._engine.memory.get(saga_id) if self._engine else None
        return "; ".join(self._gate.lacking(live)) if live and self._gate else ""

    async def end_of(self, saga_id: str, seconds: float) -> None:
        """Return when this instance ends or is parked in this process, or after `seconds`."""
        ended = asyncio.Event()
        self._ends.setdefault(saga_id, set()).add(ended)
        try:
            await pause(ended, seconds)
        finally:
            waiting = self._ends[saga_id]
            waiting.discard(ended)
            if not waiting:
                del self._ends[saga_id]

    async def run(self, stop: asyncio.Event) -> None:
        """See Role.run. Raises DatabaseUnavailable."""
        context = self.context
        context.board.clear(ProblemReason.INTERNAL_ERROR)
        async with session() as client:
            http = HttpCaller(client, self._reachability, SecretFiles(Path(SECRETS_DIRECTORY)))
            engine = Engine(
                context.pool,
                resource=context.resource,
                holder=context.holder,
                definitions=self._revisions,
                caller=traced(LibraryCaller(self._handlers, http, self._services), context.resource),
                workers=self._workers,
                ended=self._ended,
                broken=self._tell_broken,
                worked=self._worked,
                gate=self._gated,
                calls=self.metrics.calls,
                cache=StepCache(
                    context.resource, CACHE_BYTES, of_handler=self._handlers_cache, numbers=self.metrics.calls
                ),
            )
            self._engine = engine
            try:
                async with TaskGroup() as tasks:
                    tasks.create_task(engine.run(stop))
                    tasks.create_task(self._look(engine, stop))
                    tasks.create_task(self._janitor.run(stop))
            except BaseExceptionGroup as group:
                raise first_error(group) from group
            finally:
                self._engine = self._gate = None

    def _handlers_cache(self, step: Step) -> Cache | None:
        name = handler_name(self._handlers, step, undo=False)
        return None if name is None else self._handlers.cache(name)

    def _gated(self, breakers: Breakers) -> HandlerGate:
        self._gate = HandlerGate(breakers, self._handlers)
        return self._gate

    def _ended(self, live: Live) -> None:
        self.metrics.ended.ended(live)
        for waiting in self._ends.get(live.text, ()):
            waiting.set()

    async def _look(self, engine: Engine, stop: asyncio.Event) -> None:
        await engine.ready.wait()
        self.context.board.clear(
            ProblemReason.STARTING, ProblemReason.DATABASE_UNAVAILABLE, ProblemReason.SCHEMA_OUTDATED
        )
        self._ready.set()
        while not stop.is_set():
            self._reachability.look()
            self._handlers.look(self.context.board)
            self.metrics.live.set(len(engine.memory))
            self.metrics.lanes.set(len(engine.memory.epochs))
            self.metrics.breakers(engine.breakers.circuits)
            await self._stuck.look(engine)
            self.metrics.stuck(self._stuck.causes)
            with translate():
                async with self.context.pool.acquire() as conn:
                    oldest_seconds = await saga_instance.oldest_parked_seconds(conn, self.context.resource)
            self.metrics.parked_oldest.set(oldest_seconds)
            await pause(stop, LOOK_SECONDS)

    def _tell_broken(self, instance: str, error: Exception) -> None:
        self.context.board.report(
            ProblemReason.INTERNAL_ERROR,
            f"saga {instance} cannot go on and is left as it is; the others do: {type(error).__name__}: {error}",
            blocking=False,
        )
