"""A burst of orders, and in the middle of it one worker of each kind ended with -9."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from dev.cluster.errors import ClusterError
from dev.demo.evidence import active_sagas, ended_sagas
from dev.demo.kubectl import Kubectl
from dev.demo.load import Shopper
from dev.demo.manifests import NAMESPACE
from dev.demo.target import RESOURCES, Pod, Target, ready_pod, steadiest_pod

#: Sagas of the burst that end before the kill: it strikes workers that are at work.
ENDED_WANTED: Final = 20
#: Sagas that must be active when the workers are killed.
ACTIVE_NEEDED: Final = 20
#: The kill waits for some more: a declined card's saga goes on ending until it strikes.
ACTIVE_WANTED: Final = 40
#: However fast the machine is, sagas gather in the middle of their charge: the payment service's database makes it wait.
HOLD_CHARGES: Final = "LOCK TABLE payments.entries IN SHARE MODE"
POLL_SECONDS: Final = 0.01
REACHED_SECONDS: Final = 30.0
REPLACED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Killed:
    """What was ended with -9, and how many sagas were active just before and just after."""

    pods: tuple[str, ...]
    active_before: int
    active_after: int


async def burst_with_kill(
    target: Target, database: asyncpg.Connection, shopper: Shopper, bodies: Sequence[Mapping[str, Any]]
) -> tuple[list[str], Killed]:
    """The order ids, and the kill in their midst. ClusterError when too few sagas were active at that moment."""
    pods = await asyncio.to_thread(_one_of_each, target.kubectl)
    async with asyncio.TaskGroup() as group:
        orders = group.create_task(shopper.burst(bodies))
        killed = await _kill(target, database, pods)
    await asyncio.to_thread(_await_replaced, target.kubectl, pods)
    return orders.result(), killed


def _one_of_each(kubectl: Kubectl) -> list[Pod]:
    return [steadiest_pod(kubectl, kind, REPLACED_SECONDS) for kind in RESOURCES]


async def _kill(target: Target, database: asyncpg.Connection, pods: Sequence[Pod]) -> Killed:
    wanted = await ended_sagas(database) + ENDED_WANTED
    await _reach(ended_sagas, database, wanted, "ended")
    async with database.transaction():
        await database.execute(HOLD_CHARGES)
        before = await _reach(active_sagas, database, ACTIVE_WANTED, "are active")
        await asyncio.to_thread(target.kill, pods)
        after = await active_sagas(database)
    if min(before, after) < ACTIVE_NEEDED:
        raise ClusterError(
            f"{before} sagas were active before the kill and {after} after it, {ACTIVE_NEEDED} are needed: "
            "the burst is too small for this machine"
        )
    return Killed(tuple(pod.name for pod in pods), before, after)


async def _reach(
    count: Callable[[asyncpg.Connection], Awaitable[int]], database: asyncpg.Connection, wanted: int, what: str
) -> int:
    """Wait for so many sagas. ClusterError when they do not come."""
    deadline = time.monotonic() + REACHED_SECONDS
    while (now := await count(database)) < wanted:
        if time.monotonic() > deadline:
            raise ClusterError(f"only {now} sagas {what} within {REACHED_SECONDS:.0f} s of the burst, not {wanted}")
        await asyncio.sleep(POLL_SECONDS)
    return now


def _await_replaced(kubectl: Kubectl, killed: Sequence[Pod]) -> None:
    """Each killed worker has a successor: its container was started again, or another pod has its place."""
    deadline = time.monotonic() + REPLACED_SECONDS
    waiting = {pod.name: pod for pod in killed}
    while waiting:
        items = {item["metadata"]["name"]: item for item in kubectl.items("pods", NAMESPACE)}
        for name, pod in list(waiting.items()):
            now = ready_pod(items[name]) if name in items else None
            if name not in items or (now is not None and now.container_id != pod.container_id):
                del waiting[name]
        if time.monotonic() > deadline:
            raise ClusterError(f"killed workers did not come back within {REPLACED_SECONDS:.0f} s: {sorted(waiting)}")
        time.sleep(0.2)
