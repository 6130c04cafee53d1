"""Cached steps on a real Postgres and a real Redis: a hit is journaled as an answer, and no failure of a cache fails a step."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.breaker import Phase
from marty_msf.core.saga.events import Succeeded
from marty_msf.core.saga.journal import decode
from marty_msf.core.worker_config import SagaConfig
from marty_msf.worker.board import Board
from marty_msf.worker.role import Context
from marty_msf.worker.saga import role as role_module
from marty_msf.worker.saga.calling.python_caller import PythonCaller, StepCall, StepRejected
from marty_msf.worker.saga.calling.redis_cache import RedisCache
from marty_msf.worker.saga.calling.step_cache import StepCache
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.sagas import RESOURCE, Running, engine, pool_of, spec, states, told
from tests.support.redis import redis_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

MEGABYTE = 1024 * 1024


def saga(**check: Any) -> SagaSpec:
    cached = {"name": "check", "cache": {"ttlSeconds": 300, "key": "context.customer"}, **check}
    return spec(cached, {"name": "confirm"}, workers=20)


class Customers:
    """Checks customers; counts what it was really asked."""

    def __init__(self) -> None:
        self.checks: Counter[Any] = Counter()
        self.seen: list[Any] = []
        self.down = False

    async def check(self, call: StepCall) -> Mapping[str, Any]:
        customer = call.context.get("customer")
        self.checks[customer] += 1
        if self.down:
            raise OSError("503")
        if customer == "unknown":
            raise StepRejected("no such customer")
        return {"credit": f"of {customer}"}

    async def confirm(self, call: StepCall) -> None:
        self.seen.append(call.context.get("credit"))

    def caller(self) -> PythonCaller:
        return PythonCaller({"shop/check": self.check, "shop/confirm": self.confirm})


async def run(it: Running, conn: asyncpg.Connection, *customers: str | None) -> None:
    """One saga after the other."""
    for customer in customers:
        started = (await states(conn)).total() + 1
        await it.engine.start(f"order-{started}", {"order": started} | ({"customer": customer} if customer else {}))
        await eventually(lambda: ended(conn), partial(eq, started))


async def ended(conn: asyncpg.Connection) -> int:
    found = await states(conn)
    return found["Completed"] + found["Failed"]


async def test_an_answer_is_used_again_for_the_same_key_and_journaled_like_one(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    customers = Customers()
    cache = StepCache(RESOURCE, MEGABYTE)
    async with pool_of(postgres_url) as pool, engine(pool, customers.caller(), saga(), cache=cache) as it:
        await run(it, conn, "ann", "ann", "bob", "ann", None, None)
        # A refusal is an answer about now, so it is asked for again.
        await run(it, conn, "unknown", "unknown")

    assert customers.checks == {"ann": 1, "bob": 1, None: 2, "unknown": 2}
    assert customers.seen == ["of ann", "of ann", "of bob", "of ann", "of None", "of None"]
    rows = await conn.fetch("SELECT entry FROM marty.saga_journal WHERE seq = 2 ORDER BY id")
    events = [decode(row[0])[1] for row in rows]
    assert events[0] == events[1] == Succeeded({"credit": "of ann"})


async def test_hits_need_no_service_and_say_nothing_of_it_to_its_breaker(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    customers = Customers()
    guarded = saga(circuitBreaker={"failureThreshold": 1, "openSeconds": 60})
    cache = StepCache(RESOURCE, MEGABYTE)
    async with pool_of(postgres_url) as pool, engine(pool, customers.caller(), guarded, cache=cache) as it:
        await run(it, conn, "ann")
        customers.down = True
        await it.engine.start("waits", {"customer": "bob"})
        circuits = it.engine.breakers.circuits
        await eventually(told(lambda: circuits["shop"].phase is Phase.OPEN))
        before = (await states(conn))["Completed"]
        await it.engine.start("served", {"customer": "ann"})
        await eventually(lambda: states(conn), lambda found: found["Completed"] == before + 1)
        assert circuits["shop"].phase is Phase.OPEN
        assert customers.checks == {"ann": 1, "bob": 1}


async def test_processes_share_a_redis_and_go_on_without_it(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    customers = Customers()

    def cache(url: str) -> StepCache:
        return StepCache(RESOURCE, MEGABYTE, shared=RedisCache(lambda: url))

    async with redis_server(tmp_path) as redis, pool_of(postgres_url) as pool:
        for _ in range(2):  # two processes, one after the other: nothing is in the second one's memory
            ours = cache(redis.url)
            async with engine(pool, customers.caller(), saga(), cache=ours) as it:
                await run(it, conn, "ann")
            await ours.close()
        assert customers.checks == {"ann": 1}

        ours = cache(redis.url)
        async with engine(pool, customers.caller(), saga(), cache=ours) as it:
            await run(it, conn, "ann")
            await redis.stop()
            await run(it, conn, "bob", "bob", "ann")
        await ours.close()
    assert customers.checks == {"ann": 1, "bob": 1}, "the process's own memory goes on"
    assert await states(conn) == {"Completed": 6}


async def test_what_a_shared_cache_holds_is_taken_for_no_more_than_input(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    customers = Customers()
    async with redis_server(tmp_path) as redis, pool_of(postgres_url) as pool:
        first = StepCache(RESOURCE, MEGABYTE, shared=RedisCache(lambda: redis.url))
        async with engine(pool, customers.caller(), saga(), cache=first) as it:
            await run(it, conn, "ann")
        await first.close()
        spoiler = RedisCache(lambda: redis.url)
        keys = await (await spoiler._ready()).keys("marty:step:*")
        assert len(keys) == 1
        for spoiled in (b"[1]", b"{", b'{"context": 1}'):
            await spoiler.put(keys[0].decode(), spoiled, 300)
            second = StepCache(RESOURCE, MEGABYTE, shared=spoiler)
            async with engine(pool, customers.caller(), saga(), cache=second) as it:
                await run(it, conn, "ann")
        await spoiler.close()
    assert customers.checks == {"ann": 4}
    assert customers.seen == ["of ann"] * 4


@asynccontextmanager
async def pod(url: str, plan: SagaSpec, registry: CollectorRegistry) -> AsyncIterator[SagaRole]:
    """A worker as in a pod, with its own callers and caches."""
    board = Board()
    async with pool_of(url) as pool:
        context = Context(pool, f"test/{secrets.token_hex(4)}", RESOURCE, board, registry)
        role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=plan))
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        await eventually(told(lambda: role.engine is not None and role.engine.ready.is_set()))
        yield role
        stop.set()
        await task


async def test_pods_find_their_redis_in_a_secret(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    async def handle(request: web.Request) -> web.Response:
        calls[request.path] += 1
        return web.json_response({"credit": 7})

    app = web.Application()
    app.add_routes([web.post("/{action}", handle)])
    monkeypatch.setattr(role_module, "SECRETS_DIRECTORY", str(tmp_path))
    async with redis_server(tmp_path) as redis, TestServer(app) as server:
        (tmp_path / "shop-redis").mkdir()
        (tmp_path / "shop-redis/uri").write_text(f"{redis.url}\n")
        cached = {"name": "check", "cache": {"ttlSeconds": 300, "key": "context.customer"}}
        plan = spec(
            {**cached, "service": f"127.0.0.1:{server.port}"},
            stepCache={"redis": {"urlSecretRef": {"name": "shop-redis"}}},
        )
        for count in (1, 2):
            registry = CollectorRegistry()
            async with pod(postgres_url, plan, registry) as role:
                assert role.engine
                await role.engine.start(f"order-{count}", {"customer": "ann"})
                await eventually(lambda: ended(conn), partial(eq, count))
    assert calls == {"/check": 1}
    assert registry.get_sample_value("marty_saga_step_cache_lookups_total", {"step": "check", "result": "hit"}) == 1
