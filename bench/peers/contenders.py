"""Who takes part, each with everything it needs: a fresh database, its servers, its program, and how its work is verified."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from bench.peers import binaries, temporal_server
from bench.peers.driven import Driven, child, driven
from bench.peers.programs.load import COMPENSATED, COMPLETED, REFUSED_EACH
from tests.support.postgres import database, ensure_template
from tests.support.processes import free_port
from tests.support.servers import ROOT
from tests.support.waiting import eventually

OUR_PATH: Final = os.pathsep.join(str(ROOT / path) for path in ("runtime", "."))
#: What a verification counted: name -> (expected, found).
Found = Mapping[str, tuple[object, object]]
#: Finds out, from a contender's own tables, whether the outcomes of all its orders are what happened.
Verify = Callable[[Mapping[str, int]], Awaitable[Found]]

_STATES: Final = "SELECT state, count(*) FROM marty.saga_instance GROUP BY state"
_WRONG: Final = """
SELECT count(*) FROM marty.saga_instance WHERE state <> CASE
  WHEN split_part(business_key, '-', 2)::bigint % $1 = 0 THEN 'Compensated' ELSE 'Completed' END
"""
# A start and three answers; of a refused one two more, of its undos.
_ODD_JOURNALS: Final = """
SELECT count(*) FROM (SELECT i.state, count(*) AS entries, max(j.seq) AS last
                        FROM marty.saga_instance AS i JOIN marty.saga_journal AS j USING (id) GROUP BY i.id) AS t
 WHERE entries <> last OR entries <> CASE state WHEN 'Completed' THEN 4 ELSE 6 END
"""
_COUNTERS: Final = """
SELECT sum(started)::bigint, sum(completed)::bigint, sum(compensated)::bigint, sum(failed + cancelled + parked)::bigint
  FROM marty.saga_counter
"""
_WORKFLOWS: Final = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
_STEPS: Final = "SELECT count(*) FROM dbos.operation_outputs"
_JOBS: Final = "SELECT count(*) FROM river_job WHERE state = 'completed'"


@dataclass(frozen=True, slots=True)
class Contender:
    """One that is at work now."""

    driven: Driven
    #: Names of its databases; none for one without Postgres.
    databases: Sequence[str]
    #: What its processes are, Postgres excepted.
    pids: Mapping[str, int]
    verify: Verify


@asynccontextmanager
async def marty() -> AsyncIterator[Contender]:
    """One worker process, with the steps as functions in it."""
    async with (
        _directory() as directory,
        database(await ensure_template()) as url,
        _ours("python", directory, url) as program,
    ):
        yield Contender(program, [_name(url)], {"worker": program.pid}, _marty_at(url))


@asynccontextmanager
async def marty_http() -> AsyncIterator[Contender]:
    """One worker process, with the steps as calls to a local service."""
    async with (
        _directory() as directory,
        database(await ensure_template()) as url,
        _service(directory) as (at, service),
        _ours("http", directory, url, at) as program,
    ):
        yield Contender(program, [_name(url)], {"worker": program.pid, "service": service}, _marty_at(url))


@asynccontextmanager
async def bare_http() -> AsyncIterator[Contender]:
    """No sagas: the calls alone, by the same client to the same service. Each of its sagas is one call."""
    async with (
        _directory() as directory,
        _service(directory) as (at, service),
        _ours("bare", directory, "", at) as program,
    ):
        yield Contender(program, [], {"client": program.pid, "service": service}, _nothing)


@asynccontextmanager
async def dbos() -> AsyncIterator[Contender]:
    """A workflow of three async steps in one process."""
    async with _directory() as directory, database(None) as url:
        argv = (binaries.python(), binaries.SOURCES / "dbos_sagas.py")
        async with driven("dbos", argv, directory, {"DATABASE_URL": url}) as program:

            async def verify(ended: Mapping[str, int]) -> Found:
                return {
                    "workflows in SUCCESS": (_sagas(ended), await _count(url, _WORKFLOWS)),
                    "steps recorded": (_all_steps(ended), await _count(url, _STEPS)),
                }

            yield Contender(program, [_name(url)], {"worker": program.pid}, verify)


@asynccontextmanager
async def river(mode: str) -> AsyncIterator[Contender]:
    """Jobs that insert each other, in Go; for `mode` see the program."""
    async with _directory() as directory, database(None) as url:
        argv = (binaries.program("river"), mode)
        async with driven("river", argv, directory, {"DATABASE_URL": url}) as program:

            async def verify(ended: Mapping[str, int]) -> Found:
                expected = _all_steps(ended)
                # Batches of completions come behind what they complete.
                await eventually(lambda: _count(url, _JOBS), lambda found: found >= expected, seconds=30, every=0.2)
                return {"jobs completed": (expected, await _count(url, _JOBS))}

            yield Contender(program, [_name(url)], {"worker": program.pid}, verify)


@asynccontextmanager
async def temporal(mode: str) -> AsyncIterator[Contender]:
    """A workflow of three activities; its server keeps everything in the same Postgres."""
    async with (
        _directory() as directory,
        database(None) as main,
        database(None) as visibility,
        temporal_server.running(directory, main, visibility) as (address, server),
    ):
        argv = (binaries.python(), binaries.SOURCES / "temporal_sagas.py", mode)
        async with driven("temporal", argv, directory, {"ADDRESS": address}) as program:

            async def verify(ended: Mapping[str, int]) -> Found:
                expected = _sagas(ended)
                completed = temporal_server.COMPLETED
                await eventually(
                    lambda: _count(visibility, completed), lambda found: found >= expected, seconds=60, every=0.2
                )
                return {"workflows completed": (expected, await _count(visibility, completed))}

            pids = {"worker": program.pid, "server": server}
            yield Contender(program, [_name(main), _name(visibility)], pids, verify)


@asynccontextmanager
async def restate() -> AsyncIterator[Contender]:
    """A handler with three durable steps; its server keeps a log of its own, not in Postgres."""
    service, ingress, admin = free_port(), free_port(), free_port()
    settings = {
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_BIND_PORT": str(free_port()),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_ADMIN__DISABLE_WEB_UI": "true",
        "RESTATE_ADMIN__QUERY_ENGINE__PGSQL_BIND_PORT": str(free_port()),
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "PYTHONPATH": str(binaries.SOURCES),
    }
    hypercorn = (
        binaries.python().with_name("hypercorn"),
        "restate_service:app",
        "--workers",
        "0",
        "--bind",
        f"127.0.0.1:{service}",
    )
    listen = ("--no-logo", "--listen-mode", "tcp", "--bind-ip", "127.0.0.1", "--base-dir", "data")
    async with (
        _directory() as directory,
        child("server", (binaries.restate(), *listen), directory, settings) as server,
        child("service", hypercorn, directory, settings) as handlers,
    ):
        await _deployed(admin, service)
        argv = (binaries.program("restate"), f"http://127.0.0.1:{ingress}/saga/run")
        async with driven("customers", argv, directory, {}) as program:
            pids = {"server": server.pid, "service": handlers.pid, "customers": program.pid}
            yield Contender(program, [], pids, _nothing)


async def _deployed(admin: int, service: int) -> None:
    async def deploy() -> bool:
        try:
            url, body = f"http://127.0.0.1:{admin}/deployments", {"uri": f"http://127.0.0.1:{service}"}
            async with aiohttp.ClientSession() as client, client.post(url, json=body) as answer:
                return answer.status == 201
        except aiohttp.ClientError:
            return False

    await eventually(deploy, seconds=60, every=0.2)


@asynccontextmanager
async def _ours(mode: str, directory: Path, url: str, *service: str) -> AsyncIterator[Driven]:
    argv = (sys.executable, "-m", "bench.peers.marty", mode, *service)
    async with driven("marty", argv, directory, {"DATABASE_URL": url, "PYTHONPATH": OUR_PATH}) as program:
        yield program


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[tuple[str, int]]:
    """The least a service can be: its address and pid."""
    port = free_port()
    async with child("service", (binaries.program("service"), str(port)), directory, {}) as process:

        async def answers() -> bool:
            try:
                async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/"):
                    return True
            except aiohttp.ClientError:
                return False

        await eventually(answers)
        yield f"127.0.0.1:{port}", process.pid


def _marty_at(url: str) -> Verify:
    async def verify(ended: Mapping[str, int]) -> Found:
        sagas = _sagas(ended)
        refused = (sagas + REFUSED_EACH - 1) // REFUSED_EACH
        conn = await asyncpg.connect(url)
        try:
            states = dict(await conn.fetch(_STATES))
            wrong = await conn.fetchval(_WRONG, REFUSED_EACH)
            journals = await conn.fetchval(_ODD_JOURNALS)
            counters = tuple(await conn.fetchrow(_COUNTERS))
        finally:
            await conn.close()
        return {
            "instances by state": ({"Completed": sagas - refused, "Compensated": refused}, states),
            "instances in the wrong state": (0, wrong),
            "journals that are not exactly what happened": (0, journals),
            "counters": ((sagas, sagas - refused, refused, 0), counters),
        }

    return verify


async def _nothing(_: Mapping[str, int]) -> Found:
    """Nothing but its answers, which are counted for everybody."""
    return {}


def _sagas(ended: Mapping[str, int]) -> int:
    return sum(ended.values())


def _all_steps(ended: Mapping[str, int]) -> int:
    """Three steps, and two undos more for those that compensated."""
    return 3 * ended.get(COMPLETED, 0) + 5 * ended.get(COMPENSATED, 0)


async def _count(url: str, statement: str) -> int:
    conn = await asyncpg.connect(url)
    try:
        return int(await conn.fetchval(statement))
    finally:
        await conn.close()


def _name(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


@asynccontextmanager
async def _directory() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="marty-bench-") as made:
        yield Path(made)
