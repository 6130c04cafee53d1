"""The life of each resource on the real cluster: it starts, follows edits, repairs what others break, and goes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from marty_msf.core.names import workload_name
from marty_msf.core.resources.kinds import KINDS
from tests.support.servers import server
from tests.support.space import KAFKA, REPORT_SECONDS, START_SECONDS, Space, condition

STEP = {"name": "reserve", "service": "inventory", "action": "reserve", "compensation": "release"}


def spec(kind: str, space: Space, topic: str, **more: Any) -> dict[str, Any]:
    """The smallest useful resource of a kind."""
    common = {"database": {"urlSecretRef": {"name": space.secret}}, "kafka": KAFKA}
    own: dict[str, dict[str, Any]] = {
        "Saga": {"steps": [STEP]},
        "OutboxRelay": {},
        "Projection": {
            "source": {"kafka": {"topics": [topic]}},
            "readModel": {"table": "order_summary", "columns": {"order_id": "text"}, "key": ["order_id"]},
            "events": {"order_created": {"upsert": {"order_id": "event.order_id"}}},
        },
    }
    return {**common, **own[kind], **more}


@pytest.fixture
def topic(topic_factory: Callable[[], str]) -> str:
    """A topic that exists."""
    return topic_factory()


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_a_resource_becomes_ready_and_goes_with_all_it_owns(
    space: Space, database: str, topic: str, kind: str
) -> None:
    name = workload_name("orders", KINDS[kind].role)
    await space.apply(kind, "orders", spec(kind, space, topic))

    await space.until_condition(kind, "orders", "Ready", "True", "WorkersReady")
    await space.until_condition(kind, "orders", "ConfigApplied", "True", "AllWorkers")
    await space.until_condition(kind, "orders", "Reconciling", "False")
    status = (await space.find(kind, "orders"))["status"]
    assert (status["replicas"], status["readyReplicas"], status["revisionReplicas"]) == (1, 1, 1)
    owned = {"deployment", "configmap", "secret", "serviceaccount"} | ({"service"} if kind == "Saga" else set())
    for part in owned:
        assert (await space.find(part, name))["metadata"]["ownerReferences"][0]["name"] == "orders"

    await space.kubectl("delete", kind, "orders")
    for part in owned:
        await space.until(part, name, lambda found: not found)


async def test_an_edit_rolls_the_workers_and_says_when_all_run_it(space: Space, database: str) -> None:
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    await space.until_condition("OutboxRelay", "orders", "ConfigApplied", "True")
    before = (await space.find("OutboxRelay", "orders"))["status"]["appliedRevision"]

    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, "", batchSize=77))
    await space.until_condition("OutboxRelay", "orders", "ConfigApplied", "True", "AllWorkers")

    after = await space.find("OutboxRelay", "orders")
    assert after["status"]["appliedRevision"] != before
    # The new worker may still have to hear of Kafka.
    await space.until_condition("OutboxRelay", "orders", "Ready", "True")
    config = json.loads((await space.find("configmap", "orders-relay"))["data"]["config.json"])
    assert config["spec"]["batchSize"] == 77


async def test_scaling_keeps_the_pods_that_run(space: Space, database: str) -> None:
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    await space.until_condition("OutboxRelay", "orders", "Ready", "True")
    first = await space.names("pod", "marty.dev/kind=OutboxRelay")

    await space.kubectl("scale", "obr/orders", "--replicas=2")
    await space.until("OutboxRelay", "orders", lambda found: found["status"]["readyReplicas"] == 2)
    await space.until_condition("OutboxRelay", "orders", "ConfigApplied", "True")
    assert first < await space.names("pod", "marty.dev/kind=OutboxRelay")


async def test_stopping_takes_the_pods_away_and_starting_brings_them_back(space: Space, database: str) -> None:
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    await space.until_condition("OutboxRelay", "orders", "Ready", "True", "WorkersReady")

    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, "", state="Paused"))
    await space.until_condition("OutboxRelay", "orders", "Ready", "True", "Paused")

    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, "", state="Stopped"))
    await space.until_condition("OutboxRelay", "orders", "Ready", "True", "Stopped")
    await space.until_condition("OutboxRelay", "orders", "Reconciling", "False")
    assert await space.names("pod", "marty.dev/kind=OutboxRelay") == set()

    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    await space.until_condition("OutboxRelay", "orders", "Ready", "True", "WorkersReady")


async def test_what_others_delete_or_edit_comes_back(space: Space, database: str) -> None:
    await space.apply("Saga", "orders", spec("Saga", space, ""))
    deployment = await space.until("deployment", "orders-saga", bool)
    good = (await space.until("configmap", "orders-saga", bool))["data"]

    await space.kubectl("delete", "deployment,service", "orders-saga")
    for kind in ("deployment", "service"):
        back = await space.until(kind, "orders-saga", bool, REPORT_SECONDS)
        assert back["metadata"]["uid"] != deployment["metadata"]["uid"]

    await space.kubectl("patch", "configmap", "orders-saga", "--type=merge", '-p={"data":{"config.json":"{}"}}')
    await space.until("configmap", "orders-saga", lambda found: found["data"] == good, REPORT_SECONDS)

    await space.kubectl("scale", "deployment/orders-saga", "--replicas=5")
    await space.until("deployment", "orders-saga", lambda found: found["spec"]["replicas"] == 1, REPORT_SECONDS)


async def test_fields_of_others_are_not_fought_over(space: Space, database: str) -> None:
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))
    await space.until("deployment", "orders-relay", bool)

    await space.kubectl("rollout", "restart", "deployment/orders-relay")
    await space.kubectl("annotate", "deployment", "orders-relay", "example.com/team=shop")
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, "", batchSize=88))

    def rolled(found: dict[str, Any]) -> bool:
        return bool(condition(found, "ConfigApplied").get("observedGeneration") == found["metadata"]["generation"])

    await space.until("OutboxRelay", "orders", rolled)
    deployment = await space.find("deployment", "orders-relay")
    assert deployment["metadata"]["annotations"]["example.com/team"] == "shop"
    assert "kubectl.kubernetes.io/restartedAt" in deployment["spec"]["template"]["metadata"]["annotations"]


async def test_an_invalid_edit_is_told_at_once_and_disturbs_nothing(space: Space, database: str) -> None:
    await space.apply("Saga", "orders", spec("Saga", space, ""))
    await space.until_condition("Saga", "orders", "Ready", "True")
    running = await space.names("pod", "marty.dev/kind=Saga")

    bad = spec("Saga", space, "", steps=[{**STEP, "condition": "customer.is_premium &&"}])
    await space.apply("Saga", "orders", bad)
    stalled = await space.until_condition("Saga", "orders", "Stalled", "True", "InvalidSpec", REPORT_SECONDS)
    assert stalled["message"].startswith("spec.steps[0].condition: 'customer.is_premium &&'")
    assert "keeps running" in stalled["message"]
    assert condition(await space.find("Saga", "orders"), "Ready")["status"] == "True"
    assert await space.names("pod", "marty.dev/kind=Saga") == running

    # What runs is still looked after, and can still be scaled.
    await space.kubectl("delete", "deployment", "orders-saga")
    await space.until("deployment", "orders-saga", bool, REPORT_SECONDS)
    await space.kubectl("scale", "saga/orders", "--replicas=2")
    await space.until("deployment", "orders-saga", lambda found: found["spec"]["replicas"] == 2, REPORT_SECONDS)

    await space.apply("Saga", "orders", spec("Saga", space, "", replicas=1))
    await space.until_condition("Saga", "orders", "Stalled", "False")


async def test_a_first_spec_that_is_invalid_starts_nothing(space: Space, database: str) -> None:
    await space.apply("Saga", "orders", spec("Saga", space, "", steps=[{**STEP, "condition": "1 +"}]))
    ready = await space.until_condition("Saga", "orders", "Ready", "False", "InvalidSpec", REPORT_SECONDS)
    assert "correct it" in ready["message"]
    assert await space.find("deployment", "orders-saga") == {}
    assert await space.find("configmap", "orders-saga") == {}


async def test_an_object_of_somebody_else_is_left_alone(space: Space, database: str) -> None:
    await space.kubectl("create", "configmap", "orders-relay", "--from-literal=mine=1")
    await space.apply("OutboxRelay", "orders", spec("OutboxRelay", space, ""))

    stalled = await space.until_condition("OutboxRelay", "orders", "Stalled", "True", "NameTaken", REPORT_SECONDS)
    assert "ConfigMap 'orders-relay'" in stalled["message"]
    assert (await space.find("configmap", "orders-relay"))["data"] == {"mine": "1"}

    await space.kubectl("delete", "configmap", "orders-relay")
    await space.until_condition("OutboxRelay", "orders", "Stalled", "False", seconds=START_SECONDS)


async def test_secrets_are_seen_nowhere(space: Space, database: str, operator: str) -> None:
    password = server("MARTY_CLUSTER_POSTGRES").split(":")[2].partition("@")[0]
    await space.apply("Saga", "orders", spec("Saga", space, ""))
    await space.until("deployment", "orders-saga", bool)
    kinds = "sagas,configmaps,deployments,jobs,pods,events,services"
    seen = await space.kubectl("get", kinds, "-o", "yaml", "--show-managed-fields")
    logs = await asyncio.to_thread(space.cluster.kubectl, "-n", operator, "logs", "deployment/marty-operator")
    token = (await space.find("secret", "orders-saga"))["data"]["token"]
    for secret in (password, token):
        assert secret not in seen
        assert secret not in logs.stdout
