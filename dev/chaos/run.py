"""A chaos run from its beginning to its facts."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg

from dev.chaos import facts, ledger
from dev.chaos.customers import Customers
from dev.chaos.facts import Facts
from dev.chaos.plan import Plan, config
from dev.chaos.pods import Pod
from dev.chaos.server import CRASH, ORDERLY, Server, running_server
from marty_msf.core.worker_config import render
from marty_msf.store.migrations import migrate
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

#: Of the whole time; afterwards everything that was started has time to end while the disturbance goes on.
STARTING: Final = 0.9
READY_SECONDS: Final = 60
TOLD_SECONDS: Final = 30
#: A lease lasts 6 s.
TAKEN_OVER_SECONDS: Final = 60


async def run(plan: Plan, directory: Path, tell: Callable[[str], None]) -> Facts:
    """Do all of it and read what is left. `directory` gets the logs."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server())
        await _databases(server)
        service = f"127.0.0.1:{free_port()}"
        arguments = ["-m", "dev.chaos.service", service.rpartition(":")[2], str(plan.seed), str(plan.timeout_ms)]
        environment = {"LEDGER_URL": server.url("ledger")}
        await stack.enter_async_context(running(arguments, directory / "service.log", environment))
        (directory / "config.json").write_text(render(config(service, plan.timeout_ms)))
        pods = [
            Pod(number, directory / "config.json", server.url("marty"), directory) for number in range(plan.workers)
        ]
        client = await stack.enter_async_context(aiohttp.ClientSession())
        async with _kept(pods):
            await eventually(lambda: _all_ready(pods, client), seconds=READY_SECONDS)
            tell(f"{plan.workers} workers are ready; {plan.instances} orders in {plan.seconds:.0f} s")
            customers = Customers(pods, server.url("marty"), random.Random(plan.seed))
            restarts = await _disturbed(plan, pods, server, customers, tell)
            tell("the disturbance is over")
            await _quiet(plan, server, pods, client, service, tell)
            for pod in pods:
                await pod.leave()
        return await _facts(server, customers, pods, restarts)


async def _disturbed(
    plan: Plan, pods: list[Pod], server: Server, customers: Customers, tell: Callable[[str], None]
) -> int:
    """Kill and restart while customers come, for `plan.seconds`; returns the restarts of Postgres."""
    loop = asyncio.get_running_loop()
    end = loop.time() + plan.seconds
    source = random.Random(plan.seed)

    async def kill() -> None:
        while plan.kills is None or sum(pod.killed for pod in pods) < plan.kills:
            await asyncio.sleep(source.uniform(*plan.kill_seconds))
            source.choice(pods).kill()

    async def restart() -> int:
        begin = loop.time()
        for number, share in enumerate(plan.restarts):
            await asyncio.sleep(begin + share * plan.seconds - loop.time())
            how = CRASH if number % 2 == 0 else ORDERLY
            tell(f"Postgres is stopped with {how.name}")
            await server.restart(how)
        return len(plan.restarts)

    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(customers.run(plan.orders, plan.seconds * STARTING))
        killing = tasks.create_task(kill())
        restarting = tasks.create_task(restart())
        await asyncio.wait({starting, restarting})
        if plan.kills is None:
            await asyncio.sleep(max(end - loop.time(), 0))
            killing.cancel()
    return restarting.result()


async def _quiet(
    plan: Plan,
    server: Server,
    pods: list[Pod],
    client: aiohttp.ClientSession,
    service: str,
    tell: Callable[[str], None],
) -> None:
    """Wait until every instance has ended, the living own the lanes of the dead, and the service has ended every call.

    An instance that does not end shows in the table.
    """
    conn = await asyncpg.connect(server.url("marty"))
    loop = asyncio.get_running_loop()
    end, told = loop.time() + plan.quiet_seconds, loop.time()
    while (ended := await facts.ended(conn)) < plan.instances and loop.time() < end:
        if loop.time() - told > TOLD_SECONDS:
            told = loop.time()
            tell(f"{ended} of {plan.instances} instances have ended")
        await asyncio.sleep(0.1)

    async def left_behind() -> set[str]:
        return await facts.holders(conn) - {str(await pod.holder(client)) for pod in pods}

    await eventually(left_behind, lambda found: not found, seconds=TAKEN_OVER_SECONDS)
    await conn.close()

    async def calls() -> int:
        async with client.get(f"http://{service}/open") as answer:
            return int(await answer.text())

    await eventually(calls, lambda found: found == 0, seconds=plan.quiet_seconds)


async def _facts(server: Server, customers: Customers, pods: list[Pod], restarts: int) -> Facts:
    conn, books = await asyncpg.connect(server.url("marty")), await asyncpg.connect(server.url("ledger"))
    try:
        lanes, locks = await facts.kept(conn)
        return Facts(
            instances=await facts.instances(conn),
            entries=await ledger.entries(books),
            calls=await ledger.calls(books),
            acknowledged={key: frozenset(ids) for key, ids in customers.acknowledged.items()},
            counters=await facts.counters(conn),
            lanes_kept=lanes,
            locks_kept=locks,
            kills=sum(pod.killed for pod in pods),
            restarts=restarts,
            crashes=[f"worker-{pod.number} {how}" for pod in pods for how in pod.crashes],
            errors=[f"worker-{pod.number}: {error}" for pod in pods for error in pod.errors()],
        )
    finally:
        await conn.close()
        await books.close()


async def _databases(server: Server) -> None:
    admin = await asyncpg.connect(server.url("postgres"))
    for name in ("marty", "ledger"):
        await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    conn, books = await asyncpg.connect(server.url("marty")), await asyncpg.connect(server.url("ledger"))
    await migrate(conn)
    await ledger.install(books)
    await conn.close()
    await books.close()


@asynccontextmanager
async def _kept(pods: list[Pod]) -> AsyncIterator[None]:
    """The workers run within."""
    tasks = [asyncio.create_task(pod.run()) for pod in pods]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _all_ready(pods: list[Pod], client: aiohttp.ClientSession) -> bool:
    return all([await pod.is_ready(client) for pod in pods])
