"""The worker as the pod runs it: `marty run saga`, its probes, a start over HTTP, the database away and back, SIGTERM."""

import json
import signal
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from marty_msf.core.worker_status import ProblemReason, WorkerStatus
from tests.integration.saga.sagas import ended
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TOKEN = "process-test-token"


async def test_the_worker_process_runs_sagas_over_http_and_stops_cleanly(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    service_port, port = free_port(), free_port()
    service = f"127.0.0.1:{service_port}"
    config = {
        "role": "saga",
        "namespace": "shop",
        "name": "orders",
        "spec": {
            "database": {"urlSecretRef": {"name": "db"}, "poolSize": 2},
            "steps": [
                {"name": "reserve", "service": service, "action": "reserve", "compensation": "release"},
                {"name": "charge", "service": service, "action": "charge", "compensation": "refund", "pivot": True},
                {"name": "confirm", "service": service, "action": "confirm"},
            ],
        },
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_TOKEN": TOKEN,
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(port),
    }
    services = ["-m", "tests.integration.saga.service", str(service_port), str(tmp_path / "ledger")]
    async with (
        running(services, tmp_path / "service.log"),
        running(
            ["-m", "marty_msf.cli", "run", "saga", "--config", str(path)], tmp_path / "worker.log", environment
        ) as worker,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        await eventually(lambda: _status(client, "/readyz"), lambda status: status == 200, seconds=30)
        for number in range(20):
            body = {"business_key": f"order-{number}", "context": {"decline": number % 4 == 0}}
            async with client.post("/v1/sagas", json=body) as answer:
                assert answer.status == 201, await answer.text()
        assert await ended(conn, 20) == {"Completed": 15, "Compensated": 5}

        # Postgres ends all connections: the worker comes back by itself, and a start asked again is the same start.
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await eventually(lambda: _start(client, "order-20"), lambda status: status in {200, 201}, seconds=30)
        assert (await ended(conn, 21))["Completed"] == 16

        worker.send(signal.SIGTERM)
        assert await worker.wait(30) == 0, worker.output()
    assert await conn.fetchval("SELECT count(*) FROM marty.lease WHERE holder IS NOT NULL") == 0


async def _status(client: aiohttp.ClientSession, path: str) -> int | None:
    try:
        async with client.get(path) as answer:
            return answer.status
    except aiohttp.ClientError:
        return None


async def _start(client: aiohttp.ClientSession, key: str) -> int | None:
    try:
        async with client.post("/v1/sagas", json={"business_key": key}) as answer:
            return answer.status
    except aiohttp.ClientError:
        return None


async def test_a_trigger_that_cannot_be_read_is_unmet_while_http_starts_go_on(
    postgres_url: str, tmp_path: Path
) -> None:
    port = free_port()
    spec = {
        "database": {"urlSecretRef": {"name": "db"}, "poolSize": 2},
        "kafka": {"bootstrapServers": "127.0.0.1:1"},
        "steps": [{"name": "reserve", "service": "127.0.0.1:1", "action": "reserve"}],
        "triggers": [{"kafka": {"topic": "orders", "eventType": "order_created"}}],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"role": "saga", "namespace": "shop", "name": "orders", "spec": spec}))
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_TOKEN": TOKEN,
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(port),
    }
    arguments = ["-m", "marty_msf.cli", "run", "saga", "--config", str(path)]
    async with (
        running(arguments, tmp_path / "worker.log", environment),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        await eventually(lambda: _unmet(client), lambda found: found == {ProblemReason.BROKER_UNAVAILABLE}, seconds=30)
        # The pod stays in the Service, once the engine has its lanes too.
        await eventually(lambda: _status(client, "/readyz"), lambda status: status == 200, seconds=30)
        assert await _unmet(client) == {ProblemReason.BROKER_UNAVAILABLE}
        async with client.post("/v1/sagas", json={"business_key": "order-1", "context": {}}) as answer:
            assert answer.status == 201, await answer.text()


async def _unmet(client: aiohttp.ClientSession) -> set[ProblemReason]:
    try:
        async with client.get("/status") as answer:
            status = WorkerStatus.model_validate_json(await answer.text())
    except aiohttp.ClientConnectionError:
        return set()
    return {problem.reason for problem in status.problems if problem.unmet}
