"""One run on a PostgreSQL and a Kafka of its own: writers, relays, kills, and the facts that are left when all is quiet."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg

from dev.chaos.pods import Pod
from dev.chaos.server import running_server
from dev.soak import facts
from dev.soak.facts import Facts
from dev.soak.plan import EVENTS, PARTITIONS, SMALL, SMALL_BYTES, Plan, config
from dev.soak.reading import consume
from dev.soak.writers import Writers
from marty_msf.core.resources.kinds import Role
from marty_msf.core.worker_config import render
from marty_msf.store.migrations import migrate
from tests.support.broker import broker
from tests.support.kafka import create_topic
from tests.support.waiting import eventually

DATABASE: Final = "soak"
READY_SECONDS: Final = 60
TOLD_SECONDS: Final = 30


async def run(plan: Plan, directory: Path, tell: Callable[[str], None]) -> Facts:
    """Do all of it and read what is left. `directory` gets the logs and Kafka's data."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server())
        (directory / "kafka").mkdir()
        kafka = await stack.enter_async_context(broker(directory / "kafka"))
        url = server.url(DATABASE)
        admin = await asyncpg.connect(server.url("postgres"))
        await admin.execute(f"CREATE DATABASE {DATABASE}")
        await admin.close()
        conn = await asyncpg.connect(url)
        stack.push_async_callback(conn.close)
        await migrate(conn)
        create_topic(kafka.bootstrap, EVENTS, PARTITIONS)
        create_topic(kafka.bootstrap, SMALL, PARTITIONS, {"max.message.bytes": str(SMALL_BYTES)})
        writers = Writers(plan, url)
        await writers.prepare()
        (directory / "config.json").write_text(render(config(kafka.bootstrap)))
        pods = [
            Pod(number, directory / "config.json", url, directory, role=Role.RELAY) for number in range(plan.relays)
        ]
        client = await stack.enter_async_context(aiohttp.ClientSession())
        async with _kept(pods):
            await eventually(lambda: _all_ready(pods, client), seconds=READY_SECONDS)
            tell(f"{plan.relays} relays are ready; {plan.rate} events/s for {plan.seconds:.0f} s")
            await _disturbed(plan, pods, writers, conn, tell)
            tell("the disturbance is over")
            drained_seconds = await _drained(plan, conn, writers)
            tell(f"drained {drained_seconds:.1f} s later; reading the topics")
            for pod in pods:
                await pod.leave()
        return Facts(
            committed=await facts.committed(conn),
            poison=await facts.poison(conn),
            written=writers.done,
            consumed=await asyncio.to_thread(consume, kafka.bootstrap, (EVENTS, SMALL)),
            progress=await facts.progress(conn),
            held=await facts.held(conn),
            lanes_kept=await facts.lanes_kept(conn),
            kills=sum(pod.killed for pod in pods),
            drained_seconds=drained_seconds,
            crashes=[f"relay-{pod.number} {how}" for pod in pods for how in pod.crashes],
            errors=[f"relay-{pod.number}: {error}" for pod in pods for error in pod.errors()],
        )


async def _disturbed(
    plan: Plan, pods: list[Pod], writers: Writers, conn: asyncpg.Connection, tell: Callable[[str], None]
) -> None:
    """Kill relays while the writers write."""
    source = random.Random(plan.seed)

    async def kill() -> None:
        while True:
            await asyncio.sleep(plan.kill_seconds * source.uniform(0.8, 1.2))
            if not (pod := source.choice(pods)).kill():
                next(other for other in pods if other is not pod).kill()

    async def say() -> None:
        while True:
            await asyncio.sleep(TOLD_SECONDS)
            found = await facts.progress(conn)
            waiting = writers.done.events - found.published
            tell(f"{writers.done.events} committed, {waiting} not yet published, {found.held} held, {found.dead} dead")

    async with asyncio.TaskGroup() as tasks:
        disturbing = [tasks.create_task(kill()), tasks.create_task(say())]
        await writers.run()
        for task in disturbing:
            task.cancel()


async def _drained(plan: Plan, conn: asyncpg.Connection, writers: Writers) -> float:
    """Wait until nothing is left but dead letters; what does not come shows in the table. Returns the seconds."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    committed = sum((await facts.committed(conn)).values())
    while loop.time() < begin + plan.quiet_seconds:
        found = await facts.progress(conn)
        if found.held == 0 and found.dead == writers.done.poison and found.published >= committed:
            break
        await asyncio.sleep(0.1)
    return loop.time() - begin


@asynccontextmanager
async def _kept(pods: list[Pod]) -> AsyncIterator[None]:
    """The relays run within."""
    tasks = [asyncio.create_task(pod.run()) for pod in pods]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _all_ready(pods: list[Pod], client: aiohttp.ClientSession) -> bool:
    return all([await pod.is_ready(client) for pod in pods])
