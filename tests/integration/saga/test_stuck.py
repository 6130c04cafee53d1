"""Instances that stand still: counted by the worker that owns them, with what they wait for, and found by people."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.worker_config import SagaConfig
from marty_msf.core.worker_status import ProblemReason, Stuck
from marty_msf.worker.board import Board
from marty_msf.worker.http import Surface, application
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, Failing, Gated, Shop, pool_of, spec, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TOKEN = {"Authorization": "Bearer the-token"}
SLOW = {"attempts": 100, "initialBackoffMs": 60_000, "maxBackoffMs": 60_000}


def saga(**step: Any) -> SagaSpec:
    return spec({"name": "confirm", "timeoutMs": 60_000, **step}, stuckAfterSeconds=1)


@asynccontextmanager
async def working(url: str, shop: Shop, plan: SagaSpec) -> AsyncIterator[tuple[SagaRole, TestClient[Any, Any], Board]]:
    board = Board()
    async with pool_of(url) as pool:
        registry = new_registry(board)
        context = Context(pool, f"test/{secrets.token_hex(4)}", RESOURCE, board, registry)
        role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=plan), shop.caller())
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        app = application(Surface(role, board, registry, RESOURCE, "r1"), role, "the-token")
        async with TestClient(TestServer(app)) as client:
            await eventually(told(lambda: role.engine is not None and role.engine.ready.is_set()))
            yield role, client, board
            if isinstance(shop, Gated):
                shop.gate.set()
        stop.set()
        await task


def stuck_of(role: SagaRole) -> Stuck:
    return role.local().stuck or Stuck()


async def metric(client: TestClient[Any, Any], sample: str) -> float:
    text = await (await client.get("/metrics")).text()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(sample))


async def test_instances_without_a_reply_are_counted_and_told_with_their_diagnosis(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with working(postgres_url, shop, saga()) as (role, client, board):
        assert role.engine
        for number in range(3):
            await role.engine.start(f"order-{number}", {})
        found = await eventually(told(lambda: stuck_of(role)), lambda it: it.count == 3)
        assert "confirm: reply of shop missing since" in found.diagnosis
        assert await metric(client, 'marty_saga_stuck_instances{cause="reply"}') == 3
        assert [it.blocking for it in board.current() if it.reason is ProblemReason.INSTANCES_STUCK] == [False]

        listed = await marty(postgres_url, "list", "orders", "--stuck")
        header, *rows = listed.out.splitlines()
        assert (header.split()[-1], len(rows)) == ("DIAGNOSIS", 3)
        assert all("confirm: reply of shop missing since" in row for row in rows)
        shown = await marty(
            postgres_url, "get", (await conn.fetchval("SELECT id::text FROM marty.saga_instance LIMIT 1"))
        )
        assert "stuck: no progress for" in shown.out
        answer = await client.get("/v1/sagas?stuck=true", headers=TOKEN)
        instances = (await answer.json())["instances"]
        assert [(it["stuck"], it["diagnosis"][:8]) for it in instances] == [(True, "confirm:")] * 3
        assert (await client.get("/v1/sagas?stuck=perhaps", headers=TOKEN)).status == 400

        paused = await marty(postgres_url, "pause", instances[0]["saga_id"], "--yes")
        assert paused.code == 0, paused.err
        await eventually(told(lambda: stuck_of(role)), lambda it: it.count == 2)
        shop.gate.set()
        await eventually(told(lambda: stuck_of(role)), lambda it: it.count == 0)
        assert ProblemReason.INSTANCES_STUCK not in {it.reason for it in board.current()}
        assert (await marty(postgres_url, "list", "orders", "--stuck")).out == ""


async def test_a_new_owner_counts_from_the_last_progress_not_from_its_own_start(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    failing, plan = Failing({"confirm"}), saga(retry=SLOW)
    async with working(postgres_url, failing, plan) as (role, _, _):
        assert role.engine
        await role.engine.start("order", {})
        since_ms = (await eventually(told(lambda: stuck_of(role)), lambda it: it.count == 1)).since_ms
    async with working(postgres_url, failing, plan) as (role, _, _):
        found = await eventually(told(lambda: stuck_of(role)), lambda it: it.count == 1)
        assert found.since_ms <= since_ms
        assert "confirm: failed once: shop/confirm raised OSError: the answer was lost; next call at" in found.diagnosis


async def test_an_open_breaker_is_named(postgres_url: str) -> None:
    guarded = saga(retry={**SLOW, "initialBackoffMs": 5}, circuitBreaker={"failureThreshold": 1, "openSeconds": 60})
    async with working(postgres_url, Failing({"confirm"}), guarded) as (role, client, _):
        assert role.engine
        await role.engine.start("order", {})
        found = await eventually(told(lambda: stuck_of(role)), lambda it: it.count == 1)
        assert "confirm: breaker open on shop (shop/confirm raised OSError: the answer was lost)" in found.diagnosis
        assert await metric(client, 'marty_saga_stuck_instances{cause="breaker"}') == 1
