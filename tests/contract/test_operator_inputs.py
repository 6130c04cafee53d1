"""What a Saga's pods mount: it has to exist first, and no value of a Secret leaves it."""

import json
from typing import Any

import pytest

from tests.cluster.test_operator import STEP, spec
from tests.contract.operators import Operator
from tests.support.space import KAFKA, REPORT_SECONDS, Space

pytestmark = pytest.mark.timeout(300)

HEADER = {"name": "Authorization", "secretRef": {"name": "pay", "key": "token"}}
CALL = {"http": {"headersFrom": [HEADER]}}


def saga(space: Space, **more: Any) -> dict[str, Any]:
    """Without pods: what is tested here is what the operator writes."""
    return spec("Saga", space, "", **{"replicas": 0, **more})


async def template(space: Space, **annotations: str) -> dict[str, Any]:
    """The pods' template once it has other annotations than these."""

    def holds(found: dict[str, Any]) -> bool:
        return bool(found) and found["spec"]["template"]["metadata"]["annotations"] != annotations

    found = await space.until("deployment", "orders-saga", holds, 3 * REPORT_SECONDS)
    made: dict[str, Any] = found["spec"]["template"]
    return made


async def test_a_header_waits_for_its_secret_and_its_value_stays_there(space: Space, private: Operator) -> None:
    async with private.running():
        await space.apply("Saga", "orders", saga(space, steps=[{**STEP, "call": CALL}]))
        missing = await space.until_condition("Saga", "orders", "Reconciling", "True", "SecretNotFound", seconds=30)
        assert missing["message"].startswith("spec.steps[0].call.http.headersFrom[0].secretRef: Secret 'pay' does not")
        assert await space.find("deployment", "orders-saga") == {}

        await space.write_secret("pay", "token", "Bearer very-secret")
        made = await template(space)

    (volume,) = (volume for volume in made["spec"]["volumes"] if volume["name"] == "secrets")
    items = [{"key": "token", "path": "pay/token"}]
    assert volume["projected"]["sources"] == [{"secret": {"name": "pay", "items": items}}]
    seen = await space.kubectl("get", "sagas,configmaps,deployments,events", "-o", "yaml")
    assert "very-secret" not in seen


async def test_the_login_to_kafka_waits_for_its_secret_and_a_new_password_rolls_the_pods(
    space: Space, private: Operator
) -> None:
    login = {"type": "scram-sha-512", "secretRef": {"name": "shop-user"}}
    async with private.running():
        await space.apply("Saga", "orders", saga(space, kafka={**KAFKA, "authentication": login}))
        missing = await space.until_condition("Saga", "orders", "Reconciling", "True", "SecretNotFound", seconds=30)
        assert missing["message"].startswith("spec.kafka.authentication.secretRef: Secret 'shop-user' does not exist")

        await space.write_secret("shop-user", "password", "very-secret")
        first = await template(space)
        await space.write_secret("shop-user", "password", "more-secret")
        second = await template(space, **first["metadata"]["annotations"])

    assert second["spec"] == first["spec"]
    changed = {
        key
        for key, value in first["metadata"]["annotations"].items()
        if second["metadata"]["annotations"][key] != value
    }
    assert changed == {"marty.dev/secrets-hash"}
    seen = await space.kubectl("get", "sagas,configmaps,deployments,events", "-o", "yaml")
    assert "very-secret" not in seen
    assert "more-secret" not in seen


async def test_an_edit_of_the_code_rolls_the_pods(space: Space, private: Operator) -> None:
    runtime = {"handlers": "handlers", "codeConfigMapRef": {"name": "code"}, "image": "registry.example/shop:2"}
    async with private.running():
        await space.apply("Saga", "orders", saga(space, runtime=runtime))
        missing = await space.until_condition("Saga", "orders", "Reconciling", "True", "ConfigMapNotFound", seconds=30)
        assert "ConfigMap 'code' does not exist" in missing["message"]

        await space.kubectl("create", "configmap", "code", "--from-literal=handlers.py=one = 1")
        first = await template(space)
        edit = json.dumps({"data": {"handlers.py": "one = 2"}})
        await space.kubectl("patch", "configmap", "code", "--type=merge", "-p", edit)
        second = await template(space, **first["metadata"]["annotations"])

    (container,) = second["spec"]["containers"]
    assert container["image"] == "registry.example/shop:2"
    assert container["args"][-2:] == ["--code", "/etc/marty-code"]
    changed = {
        key
        for key, value in first["metadata"]["annotations"].items()
        if second["metadata"]["annotations"][key] != value
    }
    assert changed == {"marty.dev/code-hash"}
