"""`state: Paused` of a whole Saga: its pods answer and take no work; what was started waits, and goes on afterwards."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, Shop, ended, engine, pool_of, spec, states
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TOKEN = "paused-test-token"
SAGA = spec({"name": "reserve"}, {"name": "confirm"})
HELD = "SELECT count(*) FROM marty.lease WHERE holder IS NOT NULL"


@asynccontextmanager
async def worker(url: str, directory: Path, spec: dict[str, Any]) -> AsyncIterator[aiohttp.ClientSession]:
    """The process that a pod runs, until SIGTERM; ready when this begins."""
    port, path = free_port(), directory / "config.json"
    path.write_text(json.dumps({"role": "saga", "namespace": "shop", "name": "orders", "spec": spec}))
    environment = {
        "MARTY_DATABASE_URL": url,
        "MARTY_TOKEN": TOKEN,
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(port),
    }
    arguments = ["-m", "marty_msf.cli", "run", "saga", "--config", str(path)]
    async with (
        running(arguments, directory / "worker.log", environment) as process,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        await eventually(lambda: _ready(client), seconds=30)
        yield client
        process.send(signal.SIGTERM)
        assert await process.wait(30) == 0, process.output()


async def test_a_paused_worker_takes_no_new_work_and_the_work_goes_on_when_it_runs_again(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    async with pool_of(postgres_url) as pool:
        async with engine(pool, Shop().caller(), SAGA) as it:
            await it.engine.start("order-1", {})
            await ended(conn, 1)

        paused = SAGA.model_dump(mode="json", by_alias=True, exclude_none=True) | {"state": "Paused"}
        async with worker(postgres_url, tmp_path, paused) as client:
            refused = await client.post("/v1/sagas", json={"business_key": "order-2"})
            started = await marty(postgres_url, "start", RESOURCE, "--key", "order-3", "--input", "{}")

            assert (refused.status, refused.headers["Retry-After"], started.code) == (503, "1", 0)
            # A worker that runs is ready only with its lanes, and looks for what was started ten times a second.
            assert await conn.fetchval(HELD) == 0
            assert await states(conn) == {"Completed": 1, "Pending": 1}
        assert await states(conn) == {"Completed": 1, "Pending": 1}

        async with engine(pool, Shop().caller(), SAGA):
            assert await ended(conn, 2) == {"Completed": 2}


async def _ready(client: aiohttp.ClientSession) -> bool:
    try:
        async with client.get("/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
