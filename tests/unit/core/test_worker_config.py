from typing import Any

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.worker_config import SagaConfig, parse, render, revision


def config(data: dict[str, Any]) -> SagaConfig:
    spec = {
        "database": {"urlSecretRef": {"name": "shop-db"}},
        "steps": [{"name": "charge", "service": "payment", "action": "charge", "data": data}],
    }
    return SagaConfig(namespace="shop", name="orders", spec=SagaSpec.model_validate(spec))


def test_a_worker_reads_what_the_operator_rendered() -> None:
    rendered = config({"amount": 5000, "voucher": None, "tags": ["a"]})
    assert parse(render(rendered)) == rendered


def test_a_null_in_the_users_data_reaches_the_worker() -> None:
    parsed = parse(render(config({"voucher": None})))
    assert isinstance(parsed, SagaConfig)
    assert parsed.spec.steps[0].data == {"voucher": None}


def test_the_revision_names_the_content_not_the_order_of_keys() -> None:
    assert revision(config({"a": 1, "b": 2})) == revision(config({"b": 2, "a": 1}))
    assert revision(config({"a": 1})) != revision(config({"a": 2}))
