"""Causes from outside: told within seconds, and gone by themselves when the cause goes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from marty_msf.core.resources.kinds import KINDS
from tests.cluster.test_operator import spec
from tests.support import postgres
from tests.support.servers import server
from tests.support.space import REPORT_SECONDS, Space, condition

#: The promise is REPORT_SECONDS on a quiet machine; here pods start beside all other tests.
POD_SECONDS = 3 * REPORT_SECONDS
#: Longer than the first wait before a worker begins anew, so that it is hit at work, at waiting and at connecting.
BREAK_SECONDS = 0.7
BREAKS = 6
BREAK = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'marty-%'
"""


async def test_a_missing_secret_is_told_and_its_coming_is_noticed(space: Space) -> None:
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    ready = await space.until_condition("OutboxRelay", "orders", "Ready", "False", "SecretNotFound", REPORT_SECONDS)
    assert ready["message"].startswith("spec.database.urlSecretRef: Secret 'db' does not exist")

    await space.write_secret("db", "url", "postgresql://nobody@10.244.0.1:15432/none")
    ready = await space.until_condition("OutboxRelay", "orders", "Ready", "False", "SecretKeyMissing", REPORT_SECONDS)
    assert "(it has: url)" in ready["message"]

    async with postgres.database(None) as url:
        inside = postgres.with_database(server("MARTY_CLUSTER_POSTGRES"), url.rpartition("/")[2])
        await space.write_secret("db", "uri", inside)
        await space.until_condition("OutboxRelay", "orders", "Ready", "True", "WorkersReady")
        await space.kubectl("delete", "obr", "orders")


async def test_a_database_that_refuses_is_told_and_its_return_is_noticed(space: Space) -> None:
    inside = server("MARTY_CLUSTER_POSTGRES")
    name = f"marty_late_{space.namespace.replace('-', '_')}"
    await space.write_secret("db", "uri", postgres.with_database(inside, name))
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    ready = await space.until_condition("OutboxRelay", "orders", "Ready", "False", "DatabaseUnavailable")
    assert urlsplit(inside).password not in ready["message"]

    async with database_named(name):
        await space.until_condition("OutboxRelay", "orders", "Ready", "True", "WorkersReady")
        await space.kubectl("delete", "obr", "orders")


async def test_a_url_that_is_none_is_told_without_its_text(space: Space) -> None:
    await space.write_secret("db", "uri", "postgresql://shop:hush@[10.244.0.1:15432/shop")
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    ready = await space.until_condition("OutboxRelay", "orders", "Ready", "False", "DatabaseUnavailable", POD_SECONDS)
    assert "URL" in ready["message"]
    assert "hush" not in ready["message"]
    await space.kubectl("delete", "obr", "orders")


async def test_a_database_that_accepts_and_says_nothing_is_told(space: Space) -> None:
    host = urlsplit(server("MARTY_CLUSTER_POSTGRES")).hostname
    # The kernel accepts for a listener that never does; bytes are taken, no answer comes.
    with socket.create_server((host, 0)) as silent:
        await space.write_secret("db", "uri", f"postgresql://shop:hush@{host}:{silent.getsockname()[1]}/shop")
        await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
        ready = await space.until_condition(
            "OutboxRelay", "orders", "Ready", "False", "DatabaseUnavailable", POD_SECONDS
        )
        assert f"Postgres at {host}:{silent.getsockname()[1]} does not answer" in ready["message"]
        assert "hush" not in ready["message"]
        await space.kubectl("delete", "obr", "orders")


async def test_a_broker_that_cannot_be_reached_is_told_as_what_it_is(space: Space, database: str) -> None:
    nowhere = spec("OutboxRelay", space, "") | {"kafka": {"bootstrapServers": "10.244.0.1:1"}}
    await space.apply("OutboxRelay", "orders", nowhere)
    ready = await space.until_condition("OutboxRelay", "orders", "Ready", "False", "BrokerUnavailable", POD_SECONDS)
    assert "10.244.0.1:1" in ready["message"]
    await space.kubectl("delete", "obr", "orders")


async def test_broken_connections_end_no_worker(space: Space, database: str, topic_factory: Callable[[], str]) -> None:
    topic = topic_factory()
    for kind in KINDS:
        await space.apply(kind, "orders", spec(kind, space, topic))
    for kind in KINDS:
        await space.until_condition(kind, "orders", "Ready", "True", "WorkersReady")
    admin = await asyncpg.connect(postgres.admin_url())
    broken = 0
    try:
        for _ in range(BREAKS):
            broken += len(await admin.fetch(BREAK, database.rpartition("/")[2]))
            await asyncio.sleep(BREAK_SECONDS)
    finally:
        await admin.close()
    for kind in KINDS:
        await space.until_condition(kind, "orders", "Ready", "True", "WorkersReady")
    # A process that came after another one has a name of its own, and the kubelet counts it, a little later.
    workers = await asyncpg.connect(postgres.with_database(postgres.admin_url(), database.rpartition("/")[2]))
    try:
        processes = await workers.fetchval("SELECT count(DISTINCT holder) FROM marty.worker")
    finally:
        await workers.close()
    found = json.loads(await space.kubectl("get", "pod", "-l", "marty.dev/kind", "-o", "json"))["items"]
    ended = {
        pod["metadata"]["name"]: status["lastState"]
        for pod in found
        for status in pod["status"]["containerStatuses"]
        if status["restartCount"]
    }
    assert broken >= len(KINDS)
    assert len(found) == len(KINDS)
    assert (processes, ended) == (len(KINDS), {})


async def test_a_rotated_secret_reaches_the_pods(space: Space, database: str) -> None:
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    # Ready comes before the last word on the first rollout, whose Reconciling is not the one that is waited for below.
    await space.until_condition("OutboxRelay", "orders", "Ready", "True")
    await space.until_condition("OutboxRelay", "orders", "Reconciling", "False")
    before = await space.names("pod", "marty.dev/kind=OutboxRelay")

    await space.write_secret("db", "uri", f"{database}?application_name=rotated")
    await space.until("OutboxRelay", "orders", lambda found: condition(found, "Reconciling")["status"] == "True")
    await space.until_condition("OutboxRelay", "orders", "Reconciling", "False")
    assert not before & await space.names("pod", "marty.dev/kind=OutboxRelay")


async def test_one_bad_resource_harms_no_other(space: Space, database: str) -> None:
    for index in range(5):
        broken = spec("OutboxRelay", space, "") | {"database": {"urlSecretRef": {"name": f"missing-{index}"}}}
        await space.apply("OutboxRelay", f"broken-{index}", broken)
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    await space.until("deployment", "orders-relay", bool, REPORT_SECONDS)
    await space.until_condition("OutboxRelay", "orders", "Ready", "True")
    for index in range(5):
        await space.until_condition(
            "OutboxRelay", f"broken-{index}", "Ready", "False", "SecretNotFound", REPORT_SECONDS
        )


async def test_what_happens_while_the_operator_is_down_is_caught_up(space: Space, database: str, operator: str) -> None:
    await space.apply("OutboxRelay", "edited", spec("OutboxRelay", space, ""))
    await space.apply("OutboxRelay", "deleted", spec("OutboxRelay", space, ""))
    for name in ("edited", "deleted"):
        await space.until("deployment", f"{name}-relay", bool)
    await scale_operator(space, operator, 0)
    try:
        await space.apply("OutboxRelay", "edited", spec("OutboxRelay", space, "", batchSize=33))
        await space.kubectl("delete", "configmap", "edited-relay")
        await space.kubectl("delete", "obr", "deleted", "--wait=true", "--timeout=30s")
        await space.until("deployment", "deleted-relay", lambda found: not found)
        assert await space.find("deployment", "edited-relay") != {}, "workers go on while the operator is down"
    finally:
        await scale_operator(space, operator, 1)

    def caught_up(found: dict[str, object]) -> bool:
        return bool(found) and '"batchSize": 33' in str(found["data"])

    await space.until("configmap", "edited-relay", caught_up)
    await space.until_condition("OutboxRelay", "edited", "Reconciling", "False")


async def test_a_namespace_goes_while_the_operator_is_down(space: Space, database: str, operator: str) -> None:
    await space.apply("Saga", "orders", spec("Saga", space, ""))
    await space.until("deployment", "orders-saga", bool)
    await scale_operator(space, operator, 0)
    try:
        await asyncio.to_thread(
            space.cluster.kubectl, "delete", "namespace", space.namespace, "--wait=true", "--timeout=120s"
        )
    finally:
        await scale_operator(space, operator, 1)
        # The fixture deletes the namespace at the end of each test.
        await asyncio.to_thread(space.cluster.kubectl, "create", "namespace", space.namespace)


@asynccontextmanager
async def database_named(name: str) -> AsyncIterator[None]:
    """Exists inside the block only."""
    admin = await asyncpg.connect(postgres.admin_url())
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
        yield
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


async def scale_operator(space: Space, operator: str, replicas: int) -> None:
    """And wait until it is so."""
    deployment = ("-n", operator, "deployment/marty-operator")
    await asyncio.to_thread(space.cluster.kubectl, "scale", *deployment, f"--replicas={replicas}")
    await asyncio.to_thread(space.cluster.kubectl, "rollout", "status", *deployment, "--timeout=90s")
    if replicas == 0:
        arguments = ("-n", operator, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=marty-operator")
        await asyncio.to_thread(space.cluster.kubectl, *arguments, "--timeout=60s")
