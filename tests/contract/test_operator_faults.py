"""The operator against an API server that fails, and against its own death after each single write.

These tests run an operator of their own behind a proxy, in namespaced mode, on an API server of their own: no pod is
needed to see what it writes, and nobody else writes there.
"""

import asyncio
import json
import random
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.test_operator import spec
from tests.contract.operators import URL, Operator
from tests.support.api_proxy import ApiProxy, Call, Fault
from tests.support.processes import Process
from tests.support.space import REPORT_SECONDS, Space, condition
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(300)

#: Enough for several backoffs of a pass that fails three times out of ten at each call.
CHAOS_SECONDS = 90.0


def idle(space: Space, **more: Any) -> dict[str, Any]:
    """A relay without pods: what is tested here is what the operator writes."""
    return spec("OutboxRelay", space, "", **{"replicas": 0, **more})


async def applied(space: Space, name: str, batch: int, seconds: float) -> None:
    """Until the objects and the status of the relay say `batchSize` is `batch`."""

    def in_config(found: dict[str, Any]) -> bool:
        return bool(found) and json.loads(found["data"]["config.json"])["spec"]["batchSize"] == batch

    await space.until("configmap", f"{name}-relay", in_config, seconds)
    await space.until("deployment", f"{name}-relay", bool, seconds)
    await space.until_condition("OutboxRelay", name, "Reconciling", "False", seconds=seconds)


async def test_errors_drops_and_delays_lose_no_edit(space: Space, private: Operator) -> None:
    dice, met = random.Random(7), set[int]()

    def faults(call: Call) -> Fault | None:
        # Answers that got lost are the hardest: the write happened and the operator does not know.
        if call.watch or dice.random() > 0.3:
            return None
        fault = dice.choice(
            [
                *(Fault(status=status) for status in (429, 409, 500, 503, 504)),
                Fault(),
                Fault(delay=0.5),
                Fault(lost_answer=True),
            ]
        )
        met.add(fault.status)
        return fault

    private.proxy.faults = faults
    names = [f"relay-{index}" for index in range(6)]
    async with private.running():
        for name in names:
            await space.apply("OutboxRelay", name, idle(space))
        for batch in (11, 12, 13):
            for name in names:
                await space.apply("OutboxRelay", name, idle(space, batchSize=batch))
        for name in names:
            await applied(space, name, 13, CHAOS_SECONDS)
    assert met >= {0, 429, 409, 500}, "the dice must have shown these faults"


async def test_watches_that_end_with_410_or_break_lose_nothing(space: Space, private: Operator) -> None:
    watches = 0

    def faults(call: Call) -> Fault | None:
        nonlocal watches
        watches += call.watch
        return Fault(status=410 if watches % 2 else 500) if call.watch and watches < 20 else None

    private.proxy.faults = faults
    async with private.running():
        await eventually(lambda: asyncio.sleep(0, watches), lambda count: count >= 6, seconds=30)
        await space.apply("OutboxRelay", "orders", idle(space, batchSize=21))
        await applied(space, "orders", 21, 30)


async def test_an_edit_is_noticed_while_every_watch_is_silent(space: Space, private: Operator) -> None:
    async with private.running():
        await space.apply("OutboxRelay", "orders", idle(space))
        await applied(space, "orders", 500, 30)
        private.proxy.flowing.clear()
        await space.apply("OutboxRelay", "orders", idle(space, batchSize=31))
        await applied(space, "orders", 31, 2 * REPORT_SECONDS)


async def test_a_settled_resource_is_not_written_again(space: Space, private: Operator) -> None:
    async with private.running():
        await space.apply("OutboxRelay", "orders", idle(space))
        await applied(space, "orders", 500, 30)
        # The Event about the status is written behind it.
        await eventually(lambda: event_was_written(private.proxy), seconds=30)
        passes = len(private.proxy.calls)
        # Three more passes read the resource; none of them has anything to write.
        await eventually(lambda: reads(private.proxy, passes), lambda count: count >= 3, seconds=60, every=0.2)
        assert [call.path for call in private.proxy.calls[passes:] if call.method != "GET"] == []


async def test_a_finished_migration_is_not_made_again_when_its_job_is_gone(space: Space, private: Operator) -> None:
    async with private.running():
        await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
        (job,) = await eventually(lambda: space.names("job"), bool, seconds=30)
        await finish(space, job)
        await space.until_condition("OutboxRelay", "orders", "Reconciling", "True", "RollingOut", seconds=30)
        await space.kubectl("delete", "job", job)
        passes = len(private.proxy.calls)
        await eventually(lambda: reads(private.proxy, passes), lambda count: count >= 3, seconds=60, every=0.2)
        assert await space.names("job") == set()


async def finish(space: Space, job: str) -> None:
    """Write the status that the Job controller would write."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    true = {"status": "True", "lastProbeTime": now, "lastTransitionTime": now}
    conditions = [{"type": type_, **true} for type_ in ("SuccessCriteriaMet", "Complete")]
    status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
    patch = json.dumps({"status": status})
    await space.kubectl("patch", "job", job, "--subresource=status", "--type=merge", "-p", patch)


async def test_an_empty_secret_key_is_called_empty(space: Space, private: Operator) -> None:
    await space.write_secret("empty", "uri", "")
    async with private.running():
        await space.apply("OutboxRelay", "orders", idle(space, database={"urlSecretRef": {"name": "empty"}}))
        found = await space.until_condition(
            "OutboxRelay", "orders", "Reconciling", "True", "SecretKeyMissing", seconds=30
        )
        assert "key 'uri' of Secret 'empty' is empty" in found["message"]


async def event_was_written(proxy: ApiProxy) -> bool:
    return any(call.path.endswith("/events") for call in proxy.calls)


async def reads(proxy: ApiProxy, since: int) -> int:
    return sum(call.path.endswith("/outboxrelays/orders") for call in proxy.calls[since:])


@pytest.mark.timeout(600)
async def test_killed_after_any_of_its_writes_it_converges(space: Space, private: Operator) -> None:
    async with AsyncExitStack() as operators:
        first = await operators.enter_async_context(private.running())
        # The key of the hashes is made once per installation, before any resource is looked at.
        await eventually(lambda: space.find("secret", "marty-operator-hash-key"), seconds=30)
        all_writes, _ = await record(space, private.proxy, "reference", first, kill_at=0)
        reference = await complete(space, "reference")
        writes = first_pass(all_writes)
        assert {"configmaps", "deployments", "jobs", "secrets", "serviceaccounts", "services", "status"} <= set(writes)
        for gap in range(1, len(writes) + 1):
            name = f"gap-{gap:02}"
            _, killed = await record(space, private.proxy, name, first, kill_at=gap)
            assert killed, f"no operator was killed after write {gap} ({writes[gap - 1]})"
            first = await operators.enter_async_context(private.running())
            assert await complete(space, name) == reference
            await space.kubectl("delete", "saga", name)


async def record(space: Space, proxy: ApiProxy, name: str, operator: Process, kill_at: int) -> tuple[list[str], bool]:
    """Make a saga of this name and tell what the operator writes for it.

    The operator is killed with -9 when the API server has made write number `kill_at`, before the operator learns of it;
    with 0 it lives.
    """
    writes: list[str] = []

    def after(call: Call) -> None:
        if call.method == "GET" or operator.returncode is not None:
            return
        writes.append(object_of(call.path))
        if len(writes) == kill_at:
            operator.send(signal.SIGKILL)

    # A database of its own, so that each saga needs a migration Job of its own too.
    await space.write_secret(f"db-{name}", "uri", f"{URL}?application_name={name}")
    proxy.after = after
    await space.apply("Saga", name, spec("Saga", space, "") | {"database": {"urlSecretRef": {"name": f"db-{name}"}}})
    if kill_at:
        await operator.wait(60)
    else:
        await complete(space, name)
    proxy.after = lambda _: None
    return writes, operator.returncode == -signal.SIGKILL


def first_pass(writes: list[str]) -> list[str]:
    """From the first status to the second: later passes only repeat it."""
    return writes[: writes.index("status", 1) + 1]


def object_of(path: str) -> str:
    """What a write is about: `status`, or the plural of a kind."""
    parts = path.split("/")
    return parts[-1] if parts[-1] in ("status", "events", "secrets") else parts[-2]


async def complete(space: Space, name: str) -> dict[str, Any]:
    """The saga's objects once all are there and its status speaks of them, without what differs by name."""
    parts: dict[str, Any] = {}
    for kind in ("serviceaccount", "configmap", "service", "deployment"):
        parts[kind] = await space.until(kind, f"{name}-saga", bool, 60)
    token = (await space.until("secret", f"{name}-saga", bool))["data"]["token"]
    assert len(token) > 40
    resource = await space.until(
        "Saga", name, lambda found: condition(found, "Ready").get("reason") not in (None, "Pending")
    )
    template = parts["deployment"]["spec"]["template"]
    shape: dict[str, Any] = json.loads(
        json.dumps(
            {
                "config": parts["configmap"]["data"],
                "containers": template["spec"]["containers"],
                "labels": template["metadata"]["labels"],
                "ports": parts["service"]["spec"]["ports"],
                "observed": resource["status"]["observedGeneration"],
                "owners": [part["metadata"]["ownerReferences"][0]["kind"] for part in parts.values()],
            }
        ).replace(name, "NAME")
    )
    return shape
