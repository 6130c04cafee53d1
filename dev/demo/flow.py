"""The demo from an empty cluster to the check table. `make demo` and the cluster tests run exactly this."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import asyncpg

from dev.cluster.progress import Progress
from dev.demo import deploy, ledger
from dev.demo.checks import check_all
from dev.demo.database import of_database
from dev.demo.deploy import Shop
from dev.demo.evidence import KINDS, collect, order_ids, unfinished
from dev.demo.facts import Facts
from dev.demo.killing import Killed, burst_with_kill
from dev.demo.load import Latency, Shopper, latency, open_loop, order_bodies
from dev.demo.manifests import NAMESPACE, SHOP
from dev.demo.render import Report
from dev.demo.restarts import crashes, restart_counts
from dev.demo.target import WORKERS, Target

#: Steps that `run` counts on its progress.
STEPS: Final = deploy.STEPS + 5
REQUEST_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.1
#: A killed worker's leases expire after about six seconds; the rest is room for a slow machine.
QUIET_SECONDS: Final = 60.0
#: The operator writes numbers at most every five seconds.
STATUS_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """How many orders one run places."""

    burst: int = 160
    paced: int = 40
    paced_per_second: float = 2.0


async def run(target: Target, progress: Progress, load: Load = Load()) -> Report:
    """Deploy, load, disturb, settle, check. Differences are in the report; ClusterError is for what could not be done."""
    shop = await deploy.deploy(target, progress)
    database = await asyncpg.connect(of_database(shop.servers.admin_url))
    try:
        with progress.step("an independent ledger watches the outbox"):
            await database.execute((SHOP / "grants.sql").read_text())
            await ledger.install(database)
        earlier = await order_ids(database)
        restarts = restart_counts(await _workers(target))
        placed, killed, took = await _load(target, shop, database, load, progress)
        with progress.step("the check table"):
            facts = await _facts_at_rest(target, shop, database, earlier | placed)
            resources = await asyncio.to_thread(target.kubectl.run, "get", KINDS, "-n", NAMESPACE)
            crashed = crashes(restarts, await _workers(target), killed.pods)
    finally:
        await database.close()
    return Report(
        cluster=target.name,
        orders_placed=len(placed),
        killed=killed,
        repeated_messages=len(facts.published) - len({message.event_id for message in facts.published}),
        latency=took,
        crashed=crashed,
        checks=check_all(facts),
        resources=resources,
        shop_address=await asyncio.to_thread(target.advice, "order-service"),
    )


async def _workers(target: Target) -> Sequence[Mapping[str, Any]]:
    return await asyncio.to_thread(target.kubectl.items, "pods", NAMESPACE, "-l", WORKERS)


async def _load(
    target: Target, shop: Shop, database: asyncpg.Connection, load: Load, progress: Progress
) -> tuple[frozenset[str], Killed, Latency | None]:
    """The ids of the placed orders, the kill, and how long a paced order took (None when some never got there)."""
    bodies = order_bodies(load.burst + load.paced)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        shopper = Shopper(session, shop.url)
        with progress.step(f"{load.burst} orders, a worker of each kind killed") as step:
            burst, killed = await burst_with_kill(target, database, shopper, bodies[: load.burst])
            step.note(f"{min(killed.active_before, killed.active_after)} sagas were active")
        with progress.step("every saga of the burst has ended"):
            await _quiet(database)
        with progress.step(f"{load.paced} orders at {load.paced_per_second:g} a second"):
            paced, seconds = await open_loop(
                shopper, database, bodies[load.burst :], per_second=load.paced_per_second, wait_seconds=QUIET_SECONDS
            )
    took = latency(seconds) if len(seconds) == load.paced else None
    return frozenset(burst) | frozenset(paced), killed, took


async def _quiet(database: asyncpg.Connection) -> None:
    """Until every order has come to its end in the read model. Not reaching it is for the check table to show."""
    deadline = time.monotonic() + QUIET_SECONDS
    while await unfinished(database) and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)


async def _facts_at_rest(
    target: Target, shop: Shop, database: asyncpg.Connection, acknowledged: Collection[str]
) -> Facts:
    """Read until all checks hold, because status follows the rows by some seconds, or until time is up."""
    await _quiet(database)
    deadline = time.monotonic() + STATUS_SECONDS
    while True:
        facts = await collect(database, shop.servers.bootstrap, target.kubectl, acknowledged)
        if time.monotonic() > deadline or all(check.ok for check in check_all(facts)):
            return facts
        await asyncio.sleep(POLL_SECONDS)
