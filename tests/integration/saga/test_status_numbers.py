"""What a saga worker tells about itself: totals by end state, and how many instances follow which revision."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.worker_config import SagaConfig
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.calling.python_caller import StepCall
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.sagas import ORDER, Failing, Gated, Shop, ended, pool_of, spec, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


@asynccontextmanager
async def working(
    url: str, saga: SagaSpec, shop: Shop, registry: CollectorRegistry | None = None
) -> AsyncIterator[SagaRole]:
    board = Board()
    registry = registry or new_registry(board)
    async with pool_of(url) as pool:
        context = Context(pool, f"test/{secrets.token_hex(4)}", "shop/orders", board, registry)
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


#: Gauges follow four times in this time.
OFTEN = ORDER.model_copy(update={"stuck_after_seconds": 1})


class Refusing(Shop):
    """The payment refuses, and the undo's answer is lost, when asked to."""

    refuses = loses = False

    def __init__(self) -> None:
        super().__init__(refuse=lambda _: self.refuses)

    async def act(self, call: StepCall, action: str) -> Mapping[str, Any] | None:
        if action == "release" and self.loses:
            raise OSError("the answer was lost")
        return await super().act(call, action)


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


async def test_the_seeds_metrics_and_those_of_each_step_are_served(postgres_url: str, conn: asyncpg.Connection) -> None:
    """saga_duration_histogram, saga_failure_rate, saga_compensation_rate and active_sagas_gauge, by the names of Prometheus."""
    shop, registry = Refusing(), CollectorRegistry()
    async with working(postgres_url, OFTEN, shop, registry) as role:
        await start(role, "fine", "also-fine")
        await ended(conn, 2)
        shop.refuses = True
        await start(role, "refused")
        await ended(conn, 3)
        shop.loses = True
        await start(role, "parked")
        await ended(conn, 4)
        await eventually(told(lambda: registry.get_sample_value("marty_saga_parked_oldest_seconds")), seconds=10)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"marty_saga_{name}", labels)

    assert [
        value("instances_ended_total", state=state) for state in ("Completed", "Compensated", "Parked", "Failed")
    ] == [2, 1, 1, 0]
    assert value("duration_seconds_count", state="Completed") == 2
    assert value("duration_seconds_bucket", state="Completed", le="+Inf") == 2
    assert (value("duration_seconds_sum", state="Completed") or 0) > 0
    assert value("live_instances") is not None
    assert value("step_duration_seconds_count", step="reserve", direction="do", outcome="succeeded") == 4
    assert value("step_duration_seconds_count", step="charge", direction="do", outcome="refused") == 2
    assert value("step_duration_seconds_count", step="reserve", direction="undo", outcome="succeeded") == 1
    assert value("step_duration_seconds_count", step="reserve", direction="undo", outcome="unknown") == 3
    assert value("step_retries_total", step="reserve", direction="undo") == 2
    assert value("step_retries_total", step="reserve", direction="do") is None
