"""`marty run saga --code`: steps as functions of the user's own, in the process as the pod runs it."""

import json
import signal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from marty_msf.core.worker_status import ProblemReason, WorkerStatus
from tests.integration.saga.sagas import ended
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TOKEN = "own-code-test-token"
CODE = """
import asyncio
from marty_msf.patterns.saga import StepRejected, circuit_breaker, saga_compensation, saga_step

undone = []

@saga_step("points")
async def add(context):
    await asyncio.sleep(0)
    return {"points": context["total"] // 100}

@saga_compensation("points")
def take(context):
    undone.append(context.result)

@saga_step("mail")
@circuit_breaker(failure_threshold=3, timeout=7)
def mail(context):
    if context["total"] > 1000:
        raise StepRejected("too dear")
    return {"mailed": context.saga_id}
"""


def config(directory: Path, *steps: dict[str, Any]) -> Path:
    spec = {
        "database": {"urlSecretRef": {"name": "db"}, "poolSize": 2},
        "runtime": {"handlers": "own_handlers"},
        "steps": [{"service": "own", "action": "do", **step} for step in steps],
    }
    path = directory / "config.json"
    path.write_text(json.dumps({"role": "saga", "namespace": "shop", "name": "orders", "spec": spec}))
    return path


def arguments(path: Path, code: Path) -> list[str]:
    return ["-m", "marty_msf.cli", "run", "saga", "--config", str(path), "--code", str(code)]


def environment(url: str, port: int) -> dict[str, str]:
    at = {"MARTY_HTTP_HOST": "127.0.0.1", "MARTY_HTTP_PORT": str(port)}
    return {"MARTY_DATABASE_URL": url, "MARTY_TOKEN": TOKEN, **at}


def client_of(port: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"})


async def status(client: aiohttp.ClientSession) -> WorkerStatus | None:
    try:
        async with client.get("/status") as answer:
            return WorkerStatus.model_validate_json(await answer.text())
    except aiohttp.ClientError:
        return None


async def test_functions_of_a_directory_do_and_undo_steps(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    port, code = free_port(), tmp_path / "code"
    code.mkdir()
    (code / "own_handlers.py").write_text(CODE)
    path = config(
        tmp_path,
        {"name": "add", "compensation": "take", "call": {"python": {"handler": "points"}}},
        {"name": "mail", "call": {"python": {"handler": "mail"}}},
    )
    worker = running(arguments(path, code), tmp_path / "worker.log", environment(postgres_url, port))
    async with worker, client_of(port) as client:
        await eventually(lambda: status(client), lambda found: found is not None and found.ready, seconds=30)
        for total in (500, 5000):
            body = {"business_key": f"order-{total}", "context": {"total": total}}
            async with client.post("/v1/sagas", json=body) as answer:
                started = await answer.json()
        assert await ended(conn, 2) == {"Completed": 1, "Compensated": 1}
        async with client.get(f"/v1/sagas/{started['saga_id']}") as answer:
            shown = await answer.json()

    # What a function is marked with is part of what its instances follow.
    stored = json.loads(await conn.fetchval("SELECT definition FROM marty.saga_definition"))
    assert stored["steps"][1]["breaker"] == {"failure_threshold": 3, "open_seconds": 7}
    assert "too dear" in shown["error"]
    assert shown["context"]["points"] == 50


async def test_code_that_is_broken_is_told_and_the_process_stays(postgres_url: str, tmp_path: Path) -> None:
    port, code = free_port(), tmp_path / "code"
    code.mkdir()
    (code / "own_handlers.py").write_text("import nowhere_to_be_found")
    path = config(tmp_path, {"name": "mail", "call": {"python": {"handler": "mail"}}})
    worker = running(arguments(path, code), tmp_path / "worker.log", environment(postgres_url, port))
    async with worker, client_of(port) as client:

        def unusable(found: WorkerStatus | None) -> bool:
            return found is not None and {p.reason for p in found.problems} == {ProblemReason.HANDLERS_UNUSABLE}

        told = await eventually(lambda: status(client), unusable, seconds=30)
        assert told
        assert "No module named 'nowhere_to_be_found'" in told.problems[0].message

        (code / "own_handlers.py").write_text(CODE)
        await eventually(lambda: status(client), lambda found: found is not None and found.ready, seconds=30)


ENDLESS = """
import asyncio
from pathlib import Path

from marty_msf.patterns.saga import saga_step
from marty_msf.worker.saga.engine import Engine

# The test need not wait for what calls in flight are given.
Engine.__init__.__kwdefaults__["drain_seconds"] = 0.2

@saga_step("mail")
async def mail(context):
    Path(__file__).with_name("begun").touch()
    while True:
        try:
            await asyncio.sleep(600)
        except BaseException:
            pass
"""

HUNG = """
import asyncio
import time
from pathlib import Path

from marty_msf.patterns.saga import saga_step

@saga_step("mail")
def mail(context):
    Path(__file__).with_name("begun").touch()
    time.sleep(600)
"""

HUNG_ASIDE = HUNG.replace("def mail", "async def mail").replace(
    "time.sleep(600)", "await asyncio.to_thread(time.sleep, 600)"
)


@pytest.mark.parametrize("source", [ENDLESS, HUNG, HUNG_ASIDE])
async def test_a_function_that_never_ends_does_not_keep_the_process(
    postgres_url: str, tmp_path: Path, source: str
) -> None:
    port, code = free_port(), tmp_path / "code"
    code.mkdir()
    (code / "own_handlers.py").write_text(source)
    path = config(
        tmp_path, {"name": "mail", "call": {"python": {"handler": "mail"}}, "timeoutMs": 1000, "retry": {"attempts": 1}}
    )
    worker = running(arguments(path, code), tmp_path / "worker.log", environment(postgres_url, port))
    async with worker as process, client_of(port) as client:
        await eventually(lambda: status(client), lambda found: found is not None and found.ready, seconds=30)
        async with client.post("/v1/sagas", json={"business_key": "order-1", "context": {}}) as answer:
            assert answer.status == 201, await answer.text()

        async def begun() -> bool:
            return (code / "begun").exists()

        await eventually(begun)
        process.send(signal.SIGTERM)

        assert await process.wait(20) == 0, process.output()
        assert process.output().count("step 'mail'") == (source is ENDLESS)
        assert '"stopped"' in process.output()
