"""Specs, handlers and engines for the tests."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.store.database import open_pool
from marty_msf.worker.saga.calling.calls import Caller
from marty_msf.worker.saga.calling.python_caller import PythonCaller, StepCall, StepRejected
from marty_msf.worker.saga.calling.step_cache import StepCache
from marty_msf.worker.saga.definitions import Definitions
from marty_msf.worker.saga.engine import Engine
from tests.support.waiting import eventually

T = TypeVar("T")

RESOURCE = "shop/orders"
QUICK = {"attempts": 3, "initialBackoffMs": 5, "maxBackoffMs": 20}


def spec(*steps: dict[str, Any], **fields: Any) -> SagaSpec:
    return SagaSpec.model_validate(
        {
            "database": {"urlSecretRef": {"name": "db"}},
            "stepDefaults": {"timeoutMs": 2000, "retry": QUICK},
            "compensationDefaults": {"retry": QUICK},
            "steps": [{"service": "shop", "action": step["name"], **step} for step in steps],
            **fields,
        }
    )


ORDER = spec(
    {"name": "reserve", "compensation": "release"},
    {"name": "charge", "compensation": "refund", "pivot": True},
    {"name": "confirm"},
    workers=50,
)


class Shop:
    """Handlers that keep a ledger. `refuse` decides which orders the payment refuses."""

    def __init__(self, refuse: Callable[[Mapping[str, Any]], bool] = lambda _: False) -> None:
        self.calls: Counter[str] = Counter()
        self.order: dict[str, list[str]] = {}
        self._refuse = refuse

    async def act(self, call: StepCall, action: str) -> Mapping[str, Any] | None:
        self.calls[call.idempotency_key] += 1
        self.order.setdefault(call.saga_id, []).append(action)
        if action == "charge" and self._refuse(call.context):
            raise StepRejected("declined")
        return {action: f"{action}-{call.context.get('order', '')}"} if action == "reserve" else None

    def caller(self) -> Caller:
        def handler(action: str) -> Callable[[StepCall], Any]:
            return lambda call: self.act(call, action)

        return PythonCaller(
            {f"shop/{action}": handler(action) for action in ("reserve", "release", "charge", "refund", "confirm")}
        )


class Gated(Shop):
    """Handlers that answer once `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def act(self, call: StepCall, action: str) -> Mapping[str, Any] | None:
        answer = await super().act(call, action)
        await self.gate.wait()
        return answer


class Failing(Shop):
    """Some actions fail in a way that leaves their outcome unknown."""

    def __init__(self, actions: Collection[str]) -> None:
        super().__init__()
        self._actions = actions

    async def act(self, call: StepCall, action: str) -> Mapping[str, Any] | None:
        answer = await super().act(call, action)
        if action in self._actions:
            raise OSError("the answer was lost")
        return answer


@asynccontextmanager
async def pool_of(url: str, size: int = 16) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(url, size, "marty-saga test")
    try:
        yield pool
    finally:
        await pool.close()


class Running:
    """An engine at work."""

    def __init__(self, engine: Engine, task: "asyncio.Task[None]", stop: asyncio.Event, broken: dict[str, str]) -> None:
        self.engine = engine
        self.task = task
        #: Instances that cannot go on, with the reason.
        self.broken = broken
        self._stop = stop

    async def stop(self) -> None:
        """As after SIGTERM; nothing when it crashed before."""
        self._stop.set()
        if not self.task.cancelled():
            await self.task

    async def crash(self) -> None:
        """As if the process ended: no lease is handed back, no result written."""
        self.task.cancel()
        await asyncio.wait({self.task})


@asynccontextmanager
async def engine(
    pool: asyncpg.Pool,
    caller: Caller,
    saga: SagaSpec = ORDER,
    *,
    drain_seconds: float = 5,
    holder: str | None = None,
    worked: dict[int, int] | None = None,
    resource: str = RESOURCE,
    cache: StepCache | None = None,
) -> AsyncIterator[Running]:
    broken: dict[str, str] = {}
    it = Engine(
        pool,
        resource=resource,
        holder=holder or f"test/{secrets.token_hex(4)}",
        definitions=Definitions(pool, resource, saga),
        caller=caller,
        workers=saga.workers,
        ended=lambda _: None,
        broken=lambda instance, error: broken.update({instance: str(error)}),
        worked={} if worked is None else worked,
        drain_seconds=drain_seconds,
        cache=cache,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(it.run(stop))
    running = Running(it, task, stop, broken)
    try:
        await asyncio.wait({task, asyncio.ensure_future(it.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        yield running
        await running.stop()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def states(conn: asyncpg.Connection) -> Counter[str]:
    rows = await conn.fetch("SELECT state, count(*) FROM marty.saga_instance GROUP BY state")
    return Counter({row[0]: row[1] for row in rows})


async def ended(conn: asyncpg.Connection, count: int, seconds: float = 30) -> Counter[str]:
    """Wait until so many instances are neither live; returns the states."""

    def done(found: Counter[str]) -> bool:
        return sum(found[state] for state in ("Completed", "Compensated", "Parked")) >= count

    return await eventually(lambda: states(conn), done, seconds=seconds)


def told(look: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """A fact of this process, for `eventually`."""

    async def ask() -> T:
        return look()

    return ask
