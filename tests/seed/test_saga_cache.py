"""The patterns document's snippet of step caching, as it is written there."""

from typing import Any

import pytest

from marty_msf.patterns.saga import SagaOrchestrator, cached_saga_step
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

SNIPPET = """
# Implement step result caching
@cached_saga_step(ttl=300)
async def validate_customer_step(context):
    return await customer_service.validate(context["customer_id"])
"""


class CustomerService:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def validate(self, customer_id: str) -> dict[str, Any]:
        self.asked.append(customer_id)
        return {"is_premium": customer_id == "cust-1"}


async def test_a_customer_is_validated_once_for_the_same_context(postgres_url: str) -> None:
    customer_service = CustomerService()
    names: dict[str, Any] = {"cached_saga_step": cached_saga_step, "customer_service": customer_service}
    exec(SNIPPET, names)  # the document's own text

    orchestrator = SagaOrchestrator("order-processing", database_url=postgres_url)
    orchestrator.register_step_handler("validate_customer", names["validate_customer_step"])
    await orchestrator.start(worker_count=3)
    try:
        steps = [{"step_name": "validate_customer", "service_name": "customer-service", "action": "validate"}]
        for customer in ("cust-1", "cust-1", "cust-2", "cust-1"):
            saga_id = await orchestrator.start_saga(
                saga_type="order_processing", steps=steps, context={"customer_id": customer}
            )
            status = await eventually(
                lambda saga_id=saga_id: orchestrator.get_saga_status(saga_id),  # type: ignore[misc]
                lambda found: found.status == "completed",
            )
            assert status.failed_attempts == 0
    finally:
        await orchestrator.stop()

    assert customer_service.asked == ["cust-1", "cust-2"]
