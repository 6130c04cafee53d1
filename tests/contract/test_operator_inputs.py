"""What a Saga's pods mount: it has to exist first, and no value of a Secret leaves it."""

from typing import Any

import pytest

from tests.cluster.test_operator import STEP, spec
from tests.contract.operators import Operator
from tests.support.space import REPORT_SECONDS, Space

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
