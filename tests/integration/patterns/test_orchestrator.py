"""Sagas of an application's own process on a real Postgres: handlers, services over HTTP, several processes, bad input."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from marty_msf.core.errors import InvalidDefinition, NotRunning
from marty_msf.patterns.saga import (
    BusinessKeyTaken,
    SagaOrchestrator,
    StepContext,
    StepRejected,
    UnknownSaga,
    circuit_breaker,
)
from marty_msf.worker.saga.engine import Engine
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

ORDER = [
    {"step": "reserve_inventory", "compensation": "release_inventory", "product_id": "lamp", "quantity": 2},
    {"step": "charge_payment", "compensation": "refund_payment", "amount": 5000},
]


@dataclass
class Total:
    total: float


class Shop:
    """Handlers that keep a ledger of what they were called with."""

    def __init__(self, *, declines: bool = False) -> None:
        self.ledger: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
        self._declines = declines

    @property
    def actions(self) -> list[str]:
        return [action for action, _, _ in self.ledger]

    async def reserve(self, context: StepContext) -> Mapping[str, Any]:
        self.ledger.append(("reserve", dict(context), context.data))
        return {"reservation_id": f"res-{context['order_id']}"}

    async def release(self, context: StepContext) -> None:
        self.ledger.append(("release", dict(context), context.data))

    def charge(self, context: StepContext) -> Mapping[str, Any]:
        self.ledger.append(("charge", dict(context), context.data))
        if self._declines:
            raise StepRejected("card declined")
        return {"thread": threading.current_thread().name}

    async def refund(self, context: StepContext) -> None:
        self.ledger.append(("refund", dict(context), context.data))

    def register(self, orchestrator: SagaOrchestrator) -> None:
        orchestrator.register_step_handler("reserve_inventory", self.reserve)
        orchestrator.register_compensation_handler("reserve_inventory", self.release)
        orchestrator.register_step_handler("charge_payment", self.charge)
        orchestrator.register_compensation_handler("charge_payment", self.refund)


@asynccontextmanager
async def started(url: str, shop: Shop | None = None, **options: Any) -> AsyncIterator[SagaOrchestrator]:
    orchestrator = SagaOrchestrator("orders", database_url=url, **options)
    if shop:
        shop.register(orchestrator)
    async with orchestrator:
        yield orchestrator


async def test_a_saga_runs_through_its_handlers_with_the_data_of_its_start(postgres_url: str) -> None:
    shop = Shop()
    async with started(postgres_url, shop) as orchestrator:
        saga_id = await orchestrator.start_saga("order", ORDER, {"order_id": "7"})
        status = await orchestrator.wait_for_saga(saga_id, 20)

        assert (status.status, status.saga_type, status.current_step) == ("completed", "order", None)
        # Each step sees its own data and what the steps before it answered, no step the data of another one.
        assert shop.ledger[0] == ("reserve", {"order_id": "7"}, {"product_id": "lamp", "quantity": 2})
        assert shop.ledger[1] == ("charge", {"order_id": "7", "reservation_id": "res-7"}, {"amount": 5000})
        # A plain function has a thread of its own.
        assert status.context["thread"] != threading.main_thread().name
        assert "$data" not in status.context
        metrics = await orchestrator.get_metrics()
        assert (metrics.total_sagas, metrics["completed_sagas"], metrics["failed_sagas"]) == (1, 1, 0)
        assert metrics.p95_duration_ms > 0
        assert dict(metrics).keys() >= {"compensated_sagas", "average_duration_ms", "p95_duration_ms"}
        assert await orchestrator.health_check() == {
            "status": "healthy",
            "problems": [],
            "active_sagas": 0,
            "parked_sagas": 0,
        }


async def test_a_refusal_undoes_what_was_done_before(postgres_url: str) -> None:
    shop = Shop(declines=True)
    async with started(postgres_url, shop) as orchestrator:
        status = await orchestrator.wait_for_saga(await orchestrator.start_saga("order", ORDER, {"order_id": "8"}), 20)

        assert shop.actions == ["reserve", "charge", "release"]
        assert (status.status, status.failed_attempts) == ("compensated", 1)
        assert status.last_error is not None
        assert "card declined" in status.last_error
        assert (await orchestrator.get_metrics()).compensated_sagas == 1


async def test_a_parked_saga_is_a_problem_that_is_told(postgres_url: str) -> None:
    shop = Shop()
    async with started(postgres_url, shop) as orchestrator:

        @orchestrator.step("count")
        async def count(context: StepContext) -> Mapping[str, Any]:
            return {"total": Total(float("nan"))}

        saga_id = await orchestrator.start_saga("order", [{"step": "count"}])
        status = await orchestrator.wait_for_saga(saga_id, 20)

        assert status.status == "parked"
        assert "NaN and infinity are no JSON numbers" in (status.last_error or "")
        health = await orchestrator.health_check()
        assert (health["status"], health["parked_sagas"]) == ("degraded", 1)
        (problem,) = health["problems"]
        assert problem.startswith("1 parked saga waits for a person: look with `marty saga list --state parked`, then")


async def test_starts_that_differ_in_data_only_share_one_definition(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Shop()
    async with started(postgres_url, shop) as orchestrator:

        async def start(amount: int) -> str:
            steps = [ORDER[0], {**ORDER[1], "amount": amount}]
            return await orchestrator.start_saga("order", steps, {"order_id": str(amount)})

        ids = await asyncio.gather(*(start(amount) for amount in range(50)))
        for saga_id in ids:
            assert (await orchestrator.wait_for_saga(saga_id, 20)).status == "completed"

    assert await conn.fetchval("SELECT count(*) FROM marty.saga_definition") == 1
    charged = {context["order_id"]: data["amount"] for action, context, data in shop.ledger if action == "charge"}
    assert charged == {str(amount): amount for amount in range(50)}


async def test_one_business_key_is_one_saga_whoever_starts_it_and_however_often(postgres_url: str) -> None:
    one, other = Shop(), Shop()
    # One of them has longer bounds, as while a new version is rolled out: that makes no other steps.
    async with started(postgres_url, one) as first, started(postgres_url, other, timeout_seconds=400) as second:
        starts = [it.start_saga("order", ORDER, {"order_id": "9"}, business_key="9") for it in (first, second) * 10]
        ids = set(await asyncio.gather(*starts))
        assert len(ids) == 1
        assert (await second.wait_for_saga(ids.pop(), 20)).status == "completed"
        assert Counter(one.actions + other.actions) == {"reserve": 1, "charge": 1}


async def test_another_definition_under_a_taken_key_is_refused_and_starts_nothing(postgres_url: str) -> None:
    shop = Shop()
    async with started(postgres_url, shop) as orchestrator:
        saga_id = await orchestrator.start_saga("order", ORDER, {"order_id": "1"}, business_key="1")
        with pytest.raises(BusinessKeyTaken, match=r"business_key: '1' .* other steps") as refused:
            await orchestrator.start_saga("order", ORDER[:1], {"order_id": "1"}, business_key="1")
        assert refused.value.saga_id == saga_id
        # Other data is the same definition; another type has keys of its own.
        again = [ORDER[0], {**ORDER[1], "amount": 1}]
        assert await orchestrator.start_saga("order", again, business_key="1") == saga_id
        other = await orchestrator.start_saga("gift", ORDER[:1], {"order_id": "1"}, business_key="1")
        assert other != saga_id
        for it in (saga_id, other):
            assert (await orchestrator.wait_for_saga(it, 20)).status == "completed"
        assert (await orchestrator.get_metrics()).total_sagas == 2


async def test_a_saga_waits_for_a_handler_that_its_process_does_not_have_yet(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with started(postgres_url, Shop(), worker_count=2) as first:
        blocked = asyncio.Event()

        async def never(context: StepContext) -> None:
            blocked.set()
            await asyncio.Event().wait()

        first.register_step_handler("hang", never)
        hanging = [{"step_name": "hang", "timeout_ms": 3_600_000}]
        stuck = await first.start_saga("slow", hanging)
        await blocked.wait()
        # As after a crash: the process is gone, its calls are in flight for ever.
        assert first._life.running is not None
        assert first._life.running._task is not None
        first._life.running._task.cancel()
    await conn.execute("UPDATE marty.lease SET expires_at = now(); DELETE FROM marty.worker")

    shop = Shop()
    async with started(postgres_url, worker_count=1) as second:
        health = await eventually(second.health_check, lambda it: "'hang'" in str(it["problems"]))
        assert health["status"] == "degraded"
        waiting = await second.get_saga_status(stuck)
        assert (waiting.status, waiting.waits_for) == ("running", "hang waits for a step handler in its process")
        # Its only worker is free for others.
        shop.register(second)
        saga_id = await second.start_saga("order", ORDER, {"order_id": "3"})
        assert (await second.wait_for_saga(saga_id, 20)).status == "completed"

        async def hang(context: StepContext) -> Mapping[str, Any]:
            return {"hung": False}

        second.register_step_handler("hang", hang)
        status = await second.wait_for_saga(stuck, 20)
        assert (status.status, status.failed_attempts) == ("completed", 1)
        assert (await second.health_check())["problems"] == []


async def test_a_deadline_ends_the_waiting_for_a_handler(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop, other = Shop(), Shop()
    holders = "SELECT count(DISTINCT holder) FROM marty.lease WHERE scope = 'saga:_python/orders'"
    async with started(postgres_url, shop, timeout_seconds=1) as first, started(postgres_url) as second:
        second.register_step_handler("reserve_inventory", other.reserve)
        second.register_compensation_handler("reserve_inventory", other.release)
        await eventually(lambda: conn.fetchval(holders), lambda count: count == 2)
        ids = [await first.start_saga("order", ORDER, {"order_id": str(number)}) for number in range(20)]
        found = [await first.wait_for_saga(saga_id, 20) for saga_id in ids]

    assert {status.status for status in found} == {"completed", "compensated"}
    for status in found:
        if status.status == "compensated":
            assert "no step handler of 'charge_payment' was registered" in str(status.last_error)
    assert other.actions.count("reserve") == other.actions.count("release") > 0


async def test_steps_without_a_handler_are_called_over_http_by_their_service(postgres_url: str) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    async def answer(request: web.Request) -> web.Response:
        calls.append((request.path, await request.json()))
        if request.path == "/charge":
            return web.json_response({"error": "declined"}, status=402)
        return web.json_response({"reserved": True})

    app = web.Application()
    app.add_routes([web.post("/{action}", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = "{}:{}".format(*runner.addresses[0][:2])
        services = {"inventory_service": address, "payment-service": address}
        async with started(postgres_url, services=services) as orchestrator:
            steps: list[dict[str, Any]] = [
                {
                    "step_name": "reserve",
                    "service_name": "inventory_service",
                    "action": "take",
                    "compensation_action": "give_back",
                    "data": {"quantity": 2},
                },
                {"step_name": "charge", "service_name": "payment_service"},
            ]
            saga_id = await orchestrator.start_saga("order", steps, {"order_id": "5"})
            assert (await orchestrator.wait_for_saga(saga_id, 20)).status == "compensated"
    finally:
        await runner.cleanup()

    assert [path for path, _ in calls] == ["/take", "/charge", "/give_back"]
    first = {"saga_id": saga_id, "step": "reserve", "context": {"order_id": "5"}, "data": {"quantity": 2}}
    assert calls[0][1] == first
    assert calls[1][1]["context"] == {"order_id": "5", "reserved": True}
    assert calls[2][1]["result"] == {"reserved": True}


async def test_while_a_marked_handler_fails_sagas_wait_and_lose_no_attempts(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    works, calls = asyncio.Event(), 0

    @circuit_breaker(failure_threshold=2, timeout=1)
    async def charge(context: StepContext) -> None:
        nonlocal calls
        calls += 1
        if not works.is_set():
            raise ConnectionError("payment is down")

    async with started(postgres_url) as orchestrator:
        orchestrator.register_step_handler("charge", charge)
        steps = [{"step_name": "charge", "retry_attempts": 3}]
        ids = [await orchestrator.start_saga("order", steps) for _ in range(10)]
        opened = "SELECT phase, error FROM marty.saga_breaker WHERE service = 'charge'"
        row = await eventually(lambda: conn.fetchrow(opened))
        assert "payment is down" in row["error"]
        assert calls < 20
        works.set()
        found = [(await orchestrator.wait_for_saga(saga_id, 30)).status for saga_id in ids]
    assert found == ["completed"] * 10


async def test_what_cannot_run_is_refused_by_its_path_and_nothing_is_started(postgres_url: str) -> None:
    async with started(postgres_url, Shop()) as orchestrator:
        bad: list[tuple[str, Any]] = [
            ("steps: is empty", []),
            ("steps: is a dict", {"step": "charge_payment"}),
            (r"steps\[0\]: is a str", ["charge_payment"]),
            (r"steps\[0\].step: 'refund' has no service_name", [{"step": "refund"}]),
            (r"steps\[1\].step: 'charge_payment' is used more than once", [ORDER[1], ORDER[1]]),
            (r"steps\[0\].timout_ms: is no member", [{"step_name": "charge_payment", "timout_ms": 1}]),
            (r"steps\[0\].timeout_ms: 0", [{"step_name": "charge_payment", "timeout_ms": 0}]),
            (r"steps\[0\].retry_attempts", [{"step_name": "charge_payment", "retry_attempts": 0}]),
            (r"steps\[0\].condition: 'a b' is no CEL", [{"step_name": "charge_payment", "condition": "a b"}]),
            (r"steps\[0\].parallel_group", [{"step_name": "charge_payment", "parallel_group": "alone"}]),
            (r"steps\[0\].service_name: 'Pay!'", [{"step_name": "pay", "service_name": "Pay!"}]),
            (r"steps\[0\].data: is no JSON", [{"step_name": "charge_payment", "data": {"when": object()}}]),
            (r"steps\[0\].data: is no JSON", [{"step_name": "charge_payment", "data": {"total": float("inf")}}]),
        ]
        for message, steps in bad:
            with pytest.raises(InvalidDefinition, match=message):
                await orchestrator.start_saga("order", steps)
        with pytest.raises(InvalidDefinition, match="saga_type: 'no type!'"):
            await orchestrator.start_saga("no type!", ORDER)
        with pytest.raises(InvalidDefinition, match=r"context.\$data: is a reserved name"):
            await orchestrator.start_saga("order", ORDER, {"$data": {}})
        with pytest.raises(InvalidDefinition, match="NaN and infinity are no JSON numbers"):
            await orchestrator.start_saga("order", ORDER, {"total": float("nan")})
        for key in ("", "order-\0", "order-\udcff"):
            with pytest.raises(InvalidDefinition, match="business_key"):
                await orchestrator.start_saga("order", ORDER, business_key=key)
        with pytest.raises(InvalidDefinition, match="step handler 'charge_payment': is registered already"):
            orchestrator.register_step_handler("charge_payment", Shop().charge)
        for unknown in ("nonsense", "00000000-0000-7000-8000-000000000000"):
            with pytest.raises(UnknownSaga, match=unknown):
                await orchestrator.get_saga_status(unknown)
        assert (await orchestrator.get_metrics()).total_sagas == 0
        with pytest.raises(NotRunning, match="runs already"):
            await orchestrator.start()
    with pytest.raises(NotRunning, match="is not started"):
        await orchestrator.start_saga("order", ORDER)
    assert (await orchestrator.health_check())["status"] == "unhealthy"


async def test_a_handler_that_swallows_its_cancellation_does_not_keep_stop_from_ending(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    defaults = Engine.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "drain_seconds", 0.2)
    begun, over = asyncio.Event(), asyncio.Event()

    async def stubborn(_: StepContext) -> None:
        begun.set()
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    orchestrator = SagaOrchestrator("stubborn", database_url=postgres_url)
    orchestrator.register_step_handler("charge", stubborn)
    await orchestrator.start()
    await orchestrator.start_saga("order", [{"step": "charge"}], {})
    await asyncio.wait_for(begun.wait(), 20)

    stopping = asyncio.ensure_future(orchestrator.stop())
    done, _ = await asyncio.wait({stopping}, timeout=20)
    over.set()

    assert done, "stop() waits for the handler"
    stopping.result()
    assert "step 'charge'" in caplog.text
