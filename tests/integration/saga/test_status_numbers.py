"""What a saga worker tells about itself: totals by end state, and how many instances follow which revision."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.worker_config import SagaConfig
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.sagas import Failing, Gated, Shop, ended, pool_of, spec, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


@asynccontextmanager
async def working(url: str, saga: SagaSpec, shop: Shop) -> AsyncIterator[SagaRole]:
    board = Board()
    async with pool_of(url) as pool:
        context = Context(pool, f"test/{secrets.token_hex(4)}", "shop/orders", board, new_registry(board))
        role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=saga), shop.caller())
        assert role.local().active_by_revision is None, "nothing is known before it works"
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        try:
            await eventually(told(lambda: role.engine is not None and role.engine.ready.is_set()))
            yield role
            stop.set()
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def start(role: SagaRole, *keys: str) -> None:
    assert role.engine
    for key in keys:
        await role.engine.start(key, {})


async def test_instances_are_counted_by_the_revision_they_follow_until_it_is_drained(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    waits = {"stepDefaults": {"retry": {"initialBackoffMs": 2000, "maxBackoffMs": 2000}}}
    old, new = spec({"name": "confirm"}, **waits), spec({"name": "confirm"}, **waits, timeoutSeconds=70)
    failing = Failing({"confirm"})
    async with working(postgres_url, old, failing) as role:
        await start(role, "one", "two")
        first = (await role.totals()).definition_revision
        assert role.local().active_by_revision == {first: 2}
        await eventually(told(lambda: failing.calls.total() == 2))

    gated = Gated()
    async with working(postgres_url, new, gated) as role:
        await start(role, "three")
        second = (await role.totals()).definition_revision
        await eventually(told(lambda: role.local().active_by_revision == {first: 2, second: 1}))
        gated.gate.set()
        await ended(conn, 3)
        await eventually(told(lambda: role.local().active_by_revision == {}))


async def test_an_instance_that_is_refused_at_once_counts_as_failed(postgres_url: str) -> None:
    shop = Shop(refuse=lambda _: True)
    async with working(postgres_url, spec({"name": "charge"}), shop) as role:
        await start(role, "one")
        totals = await eventually(role.totals, lambda found: found.failed == 1)

    assert (totals.active, totals.compensated) == (0, 0)
