"""Sagas in application code: started and run by the process itself, on the engine that the pods of a Saga run."""

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import asyncpg
from prometheus_client import CollectorRegistry

from marty_msf.core.errors import BusinessKeyTaken, MartyError, UnknownSaga
from marty_msf.core.names import LIBRARY_NAMESPACE
from marty_msf.core.quantile import quantile
from marty_msf.core.saga.instance import LIVE
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.patterns.arguments import data_directory as checked_data_directory
from marty_msf.patterns.arguments import database_url as checked_database_url
from marty_msf.patterns.database import opened
from marty_msf.patterns.life import Life
from marty_msf.patterns.saga import arguments
from marty_msf.patterns.saga.compiling import Bounds, Compiled, Compiler, asks_the_same, saga_type_of
from marty_msf.patterns.saga.running import Running
from marty_msf.patterns.saga.status import SagaMetrics, SagaStatus, status_of
from marty_msf.patterns.saga.steps import read_steps
from marty_msf.patterns.settings import from_process
from marty_msf.store import saga_instance, saga_lookup
from marty_msf.store.database import translate
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga import tracing
from marty_msf.worker.saga.calling.handlers import Handlers, StepHandler
from marty_msf.worker.saga.metrics import BOUNDS_MS
from marty_msf.worker.saga.surface.showing import show

#: Lanes, leases, breakers, verbs; starts and questions of the application.
CONNECTIONS: Final = 8
#: How soon the end of a saga that another process works on is seen.
POLL_SECONDS: Final = 0.2

HandlerT = TypeVar("HandlerT", bound=StepHandler)


class SagaOrchestrator:
    """Starts sagas and runs them, with every other process that gives the same `name`: each saga is worked on by one of
    them at a time, and by another one when that ends. A step is done by the handler registered under its name, else by its
    service over HTTP.
    """

    def __init__(
        self,
        name: str,
        *,
        worker_count: int = 10,
        timeout_seconds: int = 300,
        timeout_per_step: int = 30,
        max_parallel_steps: int = 5,
        retention_hours: int = 168,
        services: Mapping[str, str] | None = None,
        database_url: str | None = None,
        data_directory: Path | str | None = None,
    ) -> None:
        """`timeout_seconds` bounds a saga until its pivot, `timeout_per_step` one call (in seconds, like it).
        A saga that ended can be asked for, and its business key stays taken, for `retention_hours`.

        `services` gives `host:port` for service names; by default MARTY_SERVICES (`name=host:port,…`), else the name with
        hyphens for underscores is the host. The database is `database_url`, MARTY_DATABASE_URL, or else the embedded
        PostgreSQL. Raises InvalidDefinition.
        """
        self._name = arguments.orchestrator_name(name)
        self._resource = f"{LIBRARY_NAMESPACE}/{name}"
        self._retention_hours = arguments.retention_hours(retention_hours)
        self._worker_count = arguments.worker_count(worker_count)
        self._services = None if services is None else arguments.service_addresses(services)
        self._database_url = checked_database_url(database_url)
        self._data_directory = checked_data_directory(data_directory)
        self._handlers = Handlers(interrupts=True)
        step_timeout_ms = arguments.step_seconds(timeout_per_step) * 1000
        self._compiler = Compiler(self._handlers, Bounds(timeout_seconds, step_timeout_ms, max_parallel_steps))
        self._board = Board()
        self._life: Life[Running] = Life(f"orchestrator {self._name!r}")

    def register_step_handler(self, step_name: str, handler: StepHandler) -> None:
        """`handler(context)` does the step `step_name` in this process; a coroutine function, or a plain one for a thread.

        Register all handlers before `start`, in every process of the name. Raises InvalidDefinition for a second one.
        """
        self._handlers.register_step_handler(arguments.step_name(step_name), handler)
        self._changed()

    def register_compensation_handler(self, step_name: str, handler: StepHandler) -> None:
        """`handler(context)` undoes the step `step_name`; what the step returned is in the context. As above."""
        self._handlers.register_compensation_handler(arguments.undo_name(step_name), handler)
        self._changed()

    def register_handlers(self, holder: object) -> int:
        """Register what a module or object has marked with saga_step and saga_compensation; returns how many."""
        found = self._handlers.collect(holder)
        self._changed()
        return found

    def step(self, step_name: str) -> Callable[[HandlerT], HandlerT]:
        """`register_step_handler` as a decorator."""

        def registered(handler: HandlerT) -> HandlerT:
            self.register_step_handler(step_name, handler)
            return handler

        return registered

    def compensation(self, step_name: str) -> Callable[[HandlerT], HandlerT]:
        """`register_compensation_handler` as a decorator."""

        def registered(handler: HandlerT) -> HandlerT:
            self.register_compensation_handler(step_name, handler)
            return handler

        return registered

    async def start(self, worker_count: int | None = None) -> None:
        """Connect and work on sagas until `stop`, with up to `worker_count` calls at once.

        Raises DatabaseUnavailable, SchemaOutdated (then run `marty migrate`) and DatabaseMissing; later losses of the
        database are waited out.
        """
        async with self._life.starting() as stack:
            workers = self._worker_count if worker_count is None else arguments.worker_count(worker_count)
            services = self._services
            if services is None:
                services = arguments.service_addresses(from_process().services)
            self._board.clear()
            stack.callback(self._handlers.close)
            pool = await stack.enter_async_context(
                opened(self._database_url, self._data_directory, f"marty-saga {self._resource}", CONNECTIONS)
            )
            holder = f"{self._name}/{secrets.token_hex(4)}"
            running = Running(
                Context(pool, holder, self._resource, self._board, new_registry(self._board)),
                self._handlers,
                services,
                workers,
                self._retention_hours,
            )
            stack.push_async_callback(running.stop)
            await running.start()
            self._life.running = running

    async def stop(self) -> None:
        """Let calls in flight end, hand the sagas over and let go of the database. Does nothing when it does not run.

        Waits for a start that is under way, and is done as a whole: who is cancelled meanwhile is told so afterwards.
        """
        await self._life.stop()

    async def start_saga(
        self,
        saga_type: str,
        steps: Sequence[Mapping[str, Any]],
        context: Mapping[str, Any] | None = None,
        *,
        business_key: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Start a saga; returns its id once it is durable, whatever happens to this process then.

        Its steps are called as parts of the W3C trace `traceparent`; by default, where OpenTelemetry is set up, of what goes on
        here, else of one of its own.
        With a `business_key` the same start may be made again, at any time and anywhere: there is one saga per type and
        key, and its id is returned; its context and data are those of the first start. Raises InvalidDefinition for steps,
        context or key that cannot be, BusinessKeyTaken when the key's saga follows other steps, NotRunning, and
        DatabaseUnavailable when it is unknown whether it was started.
        """
        running = self._life.at_work()
        forms = read_steps(steps)
        compiled = self._compiler.compile(saga_type, forms)
        given = arguments.start_context(context)
        if data := {form.name: form.data for form in forms if form.data}:
            given = {**given, OWN_DATA: data}
        about = {"marty.saga.resource": self._resource, "marty.saga.type": saga_type}
        trace = tracing.instant(f"start_saga {saga_type}", "INTERNAL", traceparent, about)
        key = f"{saga_type}/{arguments.own_key(business_key)}"
        receipt = await running.begin(compiled, key, given, trace)
        if not receipt.created:
            await self._same(running, compiled, business_key or "", receipt.saga_id)
        return receipt.saga_id

    async def get_saga_status(self, saga_id: str) -> SagaStatus:
        """How a saga of this name fares. Raises UnknownSaga, DatabaseUnavailable, NotRunning."""
        instance, running = self._id(saga_id), self._life.at_work()
        with translate():
            async with self._pool().acquire() as conn:
                portrait = await show(conn, self._resource, instance)
        if portrait is None:
            raise self._unknown(saga_id)
        return status_of(portrait, running.lacking(str(instance)))

    async def wait_for_saga(self, saga_id: str, timeout_seconds: float | None = None) -> SagaStatus:
        """Its status once it has ended or is parked; whatever it is after `timeout_seconds`. Raises as above."""
        instance, running = self._id(saga_id), self._life.at_work()
        now = asyncio.get_running_loop().time
        until = math.inf if timeout_seconds is None else now() + timeout_seconds
        while True:
            with translate():
                async with self._pool().acquire() as conn:
                    state = await saga_lookup.state(conn, self._resource, instance)
            if state is None:
                raise self._unknown(saga_id)
            if state not in LIVE or now() >= until:
                return await self.get_saga_status(saga_id)
            await running.end_of(str(instance), min(POLL_SECONDS, until - now()))

    async def get_metrics(self) -> SagaMetrics:
        """Numbers of all sagas of this name. Raises DatabaseUnavailable, NotRunning."""
        running = self._life.at_work()
        with translate():
            async with self._pool().acquire() as conn:
                found = await saga_instance.totals(conn, self._resource)
        ended = found.completed + found.compensated + found.failed + found.cancelled
        return SagaMetrics(
            total_sagas=found.started,
            completed_sagas=found.completed,
            failed_sagas=found.failed,
            compensated_sagas=found.compensated,
            cancelled_sagas=found.cancelled,
            parked_sagas=found.parked,
            active_sagas=max(found.started - ended - found.parked, 0),
            average_duration_ms=round(found.duration_ms / ended, 1) if ended else 0.0,
            p95_duration_ms=round(quantile(0.95, BOUNDS_MS, running.metrics.ended.counts), 1),
        )

    @property
    def prometheus_registry(self) -> CollectorRegistry:
        """What `prometheus_client` can expose: the metrics that a Saga's pods have, of this process. Raises NotRunning."""
        return self._life.at_work().context.registry

    async def health_check(self) -> dict[str, Any]:
        """`status` is healthy, degraded (something waits for a person) or unhealthy; `problems` says why."""
        running = self._life.running
        if running is None:
            return {"status": "unhealthy", "problems": ["the orchestrator is not started"]}
        problems = [*(problem.message for problem in self._board.current()), *running.missing()]
        blocked, numbers = self._board.blocked, {}
        try:
            metrics = await self.get_metrics()
            numbers = {"active_sagas": metrics.active_sagas, "parked_sagas": metrics.parked_sagas}
        except MartyError as error:
            problems, blocked = [str(error), *problems], True
        if parked := numbers.get("parked_sagas"):
            problems.append(
                f"{parked} parked {'sagas wait' if parked > 1 else 'saga waits'} for a person: look with"
                " `marty saga list --state parked`, then resume, retry, skip-step or cancel"
            )
        status = "unhealthy" if blocked else "degraded" if problems else "healthy"
        return {"status": status, "problems": problems, **numbers}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _same(self, running: Running, compiled: Compiled, business_key: str, saga_id: str) -> None:
        """Raise BusinessKeyTaken unless the saga that was found follows these steps."""
        with translate():
            async with running.context.pool.acquire() as conn:
                found = await saga_lookup.definition(conn, self._resource, UUID(saga_id))
        if found is None or asks_the_same(compiled.stored, found):
            return
        raise BusinessKeyTaken(
            f"business_key: {business_key!r} is that of saga {saga_id} ({saga_type_of(found)}), which follows other"
            " steps than these: take it for started, or give another key; nothing was started",
            saga_id,
        )

    def _changed(self) -> None:
        if self._life.running:
            self._life.running.handlers_changed()

    def _id(self, saga_id: str) -> UUID:
        try:
            return UUID(saga_id)
        except (AttributeError, TypeError, ValueError):
            raise self._unknown(saga_id) from None

    def _unknown(self, saga_id: object) -> UnknownSaga:
        return UnknownSaga(
            f"orchestrator {self._name!r} has no saga {saga_id!r}: give the id that start_saga returned; "
            f"sagas that ended are kept for {self._retention_hours} h (retention_hours)"
        )

    def _pool(self) -> asyncpg.Pool:
        return self._life.at_work().context.pool
