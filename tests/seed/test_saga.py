"""The document's pieces on sagas, word for word, against a real Postgres and real services."""

import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiohttp import web

from marty_msf.patterns.saga import SagaOrchestrator, SagaStatus, circuit_breaker
from tests.seed.snippets import run
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

ORCHESTRATOR: Final = """
from marty_msf.patterns.saga import SagaOrchestrator

# Initialize the orchestrator
orchestrator = SagaOrchestrator("order-processing")
await orchestrator.start(worker_count=3)

# Define saga steps
steps = [
    {
        "step_name": "reserve_inventory",
        "service_name": "inventory_service",
        "action": "reserve",
        "compensation_action": "release_reservation",
        "data": {"product_id": "123", "quantity": 2}
    },
    {
        "step_name": "process_payment",
        "service_name": "payment_service",
        "action": "charge",
        "compensation_action": "refund",
        "data": {"amount": 5000, "payment_method": "credit_card"}
    }
]

# Start saga execution
saga_id = await orchestrator.start_saga(
    saga_type="order_processing",
    steps=steps,
    context={"order_id": "order_123"}
)
"""

HANDLERS: Final = """
# Register step handlers
async def reserve_inventory_handler(context):
    # Implement inventory reservation logic
    return {"reserved": True, "reservation_id": "res_456"}

async def compensate_inventory_handler(context):
    # Implement inventory release logic
    reservation_id = context.get("reservation_id")
    await inventory_service.release_reservation(reservation_id)
    return {"released": True}

orchestrator.register_step_handler("reserve_inventory", reserve_inventory_handler)
orchestrator.register_compensation_handler("reserve_inventory", compensate_inventory_handler)
"""

PARALLEL: Final = """
# Execute steps in parallel where possible
parallel_steps = [
    {
        "step_name": "validate_customer",
        "parallel_group": "validation",
        "service_name": "customer_service",
        # ... other properties
    },
    {
        "step_name": "validate_inventory",
        "parallel_group": "validation",
        "service_name": "inventory_service",
        # ... other properties
    }
]
"""

CONDITIONAL: Final = """
# Steps with conditions
conditional_step = {
    "step_name": "apply_discount",
    "condition": "customer.is_premium",
    "service_name": "discount_service",
    # ... other properties
}
"""

SHORT: Final = """
# Good: Short saga with clear compensation
saga_steps = [
    {"step": "reserve_inventory", "compensation": "release_inventory"},
    {"step": "charge_payment", "compensation": "refund_payment"}
]

# Avoid: Long-running sagas with many dependencies
"""

TRANSFER: Final = """
# Better: Use saga pattern
async def transfer_money_saga(from_account, to_account, amount):
    steps = [
        {"step": "debit_account", "account": from_account, "amount": amount},
        {"step": "credit_account", "account": to_account, "amount": amount}
    ]
    await saga_orchestrator.start_saga("money_transfer", steps)
"""

METRICS: Final = """
# Track saga performance
saga_metrics = {
    "total_sagas": 1000,
    "completed_sagas": 950,
    "failed_sagas": 30,
    "compensated_sagas": 20,
    "average_duration_ms": 1500,
    "p95_duration_ms": 3000
}
"""

DIAGNOSIS: Final = """
# Check saga status
saga_status = await orchestrator.get_saga_status(saga_id)
print(f"Status: {saga_status.status}")
print(f"Current step: {saga_status.current_step}")
print(f"Failed attempts: {saga_status.failed_attempts}")
print(f"Last error: {saga_status.last_error}")
"""

SOLUTIONS: Final = """
# 1. Increase timeout values
config.saga.timeout_seconds = 600

# 2. Add step-level timeouts
step_config = {
    "step_name": "process_payment",
    "timeout_ms": 30000,  # 30 seconds
    "retry_attempts": 3
}

# 3. Implement circuit breaker
@circuit_breaker(failure_threshold=5, timeout=60)
async def payment_step_handler(context):
    return await payment_service.process(context)
"""

HEALTH: Final = """
# Implement comprehensive health checks
class DataConsistencyHealthCheck:
    async def check_saga_health(self):
        # Check if saga orchestrator is responsive
        return await self.saga_orchestrator.health_check()
"""


class Services:
    """Real HTTP services under the names of the document; `answers` says what other than 200 they answer."""

    def __init__(self) -> None:
        self.address = ""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, tuple[int, dict[str, Any]]] = {}

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    async def answer(self, request: web.Request) -> web.Response:
        self.calls.append((request.path, await request.json()))
        status, body = self.answers.get(request.path, (200, {}))
        return web.json_response(body, status=status)


@pytest.fixture
async def services(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    """The environment of a service: its database, and where the others are."""
    made = Services()
    app = web.Application()
    app.add_routes([web.post("/{action}", made.answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = made.address = "{}:{}".format(*runner.addresses[0][:2])
    names = ("inventory_service", "payment_service", "customer_service", "discount_service")
    monkeypatch.setenv("MARTY_DATABASE_URL", postgres_url)
    monkeypatch.setenv("MARTY_SERVICES", ",".join(f"{name}={address}" for name in names))
    yield made
    await runner.cleanup()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket in it, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="marty-") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "data"


@asynccontextmanager
async def orchestrator(name: str = "order-processing") -> AsyncIterator[SagaOrchestrator]:
    async with SagaOrchestrator(name) as it:
        yield it


async def ended(it: SagaOrchestrator, saga_id: str) -> SagaStatus:
    return await it.wait_for_saga(saga_id, 20)


def recording(ledger: list[Any], name: str) -> Callable[[Any], Any]:
    async def handler(context: Any) -> dict[str, Any]:
        ledger.append((name, dict(context.data)))
        return {}

    return handler


async def test_the_orchestrator_calls_the_services_of_its_steps(services: Services) -> None:
    services.answers["/charge"] = 402, {"error": "declined"}
    names = await run(ORCHESTRATOR)
    try:
        status = await ended(names["orchestrator"], names["saga_id"])
    finally:
        await names["orchestrator"].stop()
    assert services.paths == ["/reserve", "/charge", "/release_reservation"]
    assert services.calls[0][1]["data"] == {"product_id": "123", "quantity": 2}
    assert services.calls[1][1]["context"] == {"order_id": "order_123"}
    assert (status.status, status.saga_type) == ("compensated", "order_processing")


async def test_handlers_registered_behind_the_start_do_the_steps(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        # There is no inventory service yet: the step is called again until its handler is there.
        addresses = f"inventory_service=127.0.0.1:{nobody.getsockname()[1]},payment_service={services.address}"
        monkeypatch.setenv("MARTY_SERVICES", addresses)
        services.answers["/charge"] = 402, {"error": "declined"}
        released: list[str] = []

        async def release_reservation(reservation_id: str) -> None:
            released.append(reservation_id)

        names = await run(ORCHESTRATOR)
        try:
            inventory_service = SimpleNamespace(release_reservation=release_reservation)
            names = await run(HANDLERS, {**names, "inventory_service": inventory_service})
            assert (await ended(names["orchestrator"], names["saga_id"])).status == "compensated"
        finally:
            await names["orchestrator"].stop()
    assert released == ["res_456"]
    assert services.paths == ["/charge"]


async def test_without_a_database_the_embedded_one_is_used_and_told(
    services: Services, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MARTY_DATABASE_URL")
    monkeypatch.setenv("MARTY_DATA_DIRECTORY", str(directory))
    names = await run(ORCHESTRATOR)
    try:
        assert (await ended(names["orchestrator"], names["saga_id"])).status == "completed"
    finally:
        await names["orchestrator"].stop()
    assert "no database is configured: using an embedded PostgreSQL" in caplog.text


async def test_parallel_steps_are_called_at_the_same_time(services: Services) -> None:
    names = await run(PARALLEL)
    async with orchestrator() as it:
        saga_id = await it.start_saga("validation", names["parallel_steps"])
        assert (await ended(it, saga_id)).status == "completed"
    assert sorted(services.paths) == ["/validate_customer", "/validate_inventory"]


async def test_a_conditional_step_follows_the_context(services: Services) -> None:
    names = await run(CONDITIONAL)
    contexts = [{"customer": {"is_premium": True}}, {"customer": {"is_premium": False}}, {}]
    async with orchestrator() as it:
        for context in contexts:
            saga_id = await it.start_saga("discount", [names["conditional_step"]], context)
            assert (await ended(it, saga_id)).status == "completed"
    assert [body["context"] for _, body in services.calls] == contexts[:1]


async def test_the_short_form_is_undone_by_its_compensations(services: Services) -> None:
    names = await run(SHORT)
    ledger: list[Any] = []
    async with orchestrator() as it:

        async def charge(context: Any) -> None:
            raise OSError("no answer")

        it.register_step_handler("reserve_inventory", recording(ledger, "reserve"))
        # By the step's name or by its own: both are what the document writes.
        it.register_compensation_handler("release_inventory", recording(ledger, "release"))
        it.register_step_handler("charge_payment", charge)
        it.register_compensation_handler("charge_payment", recording(ledger, "refund"))
        steps = [{**step, "retry_attempts": 1} for step in names["saga_steps"]]
        status = await ended(it, await it.start_saga("order", steps))
    assert [name for name, _ in ledger] == ["reserve", "refund", "release"]
    assert status.status == "compensated"


async def test_money_is_transferred_by_a_saga(services: Services) -> None:
    ledger: list[Any] = []
    async with orchestrator("bank") as it:
        it.register_step_handler("debit_account", recording(ledger, "debit"))
        it.register_step_handler("credit_account", recording(ledger, "credit"))
        names = await run(TRANSFER, {"saga_orchestrator": it})
        await names["transfer_money_saga"]("alice", "bob", 70)
        await eventually(it.get_metrics, lambda metrics: metrics.completed_sagas == 1)
    assert ledger == [("debit", {"account": "alice", "amount": 70}), ("credit", {"account": "bob", "amount": 70})]


async def test_metrics_status_and_health_have_the_names_of_the_document(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.answers["/charge"] = 403, {}
    names = await run(ORCHESTRATOR)
    it, saga_id = names["orchestrator"], names["saga_id"]
    try:
        await ended(it, saga_id)
        await run(DIAGNOSIS, names)
        said = capsys.readouterr().out.splitlines()
        assert said[:3] == ["Status: parked", "Current step: process_payment", "Failed attempts: 1"]
        assert said[3].startswith("Last error: ")
        assert "HTTP 403" in said[3]

        metrics = await it.get_metrics()
        for name in (await run(METRICS))["saga_metrics"]:
            assert metrics[name] == getattr(metrics, name)
        assert metrics.parked_sagas == metrics.total_sagas == 1

        check = (await run(HEALTH))["DataConsistencyHealthCheck"]()
        check.saga_orchestrator = it
        health = await check.check_saga_health()
        assert (health["status"], health["parked_sagas"]) == ("degraded", 1)
    finally:
        await it.stop()
    assert (await check.check_saga_health())["status"] == "unhealthy"


async def test_the_remedies_for_stuck_sagas_are_there(services: Services) -> None:
    processed: list[Any] = []

    async def process(context: Any) -> dict[str, Any]:
        processed.append(dict(context))
        return {"charged": True}

    names = await run(
        SOLUTIONS,
        {
            "config": SimpleNamespace(saga=SimpleNamespace()),
            "circuit_breaker": circuit_breaker,
            "payment_service": SimpleNamespace(process=process),
        },
    )
    async with orchestrator() as it:
        it.register_step_handler("process_payment", names["payment_step_handler"])
        saga_id = await it.start_saga("payment", [names["step_config"]], {"order_id": "1"})
        assert (await ended(it, saga_id)).context == {"order_id": "1", "charged": True}
    assert processed == [{"order_id": "1"}]
