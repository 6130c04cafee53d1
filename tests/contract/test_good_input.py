"""Good resources are stored as the models understand them, and change only where a change is safe."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from marty_msf.core.definition_check import check_expressions
from marty_msf.core.resources.kinds import KINDS, Kind
from marty_msf.core.resources.status import Breaker, DeadLetters, Revision
from tests.contract.resources import CALLING, GOOD, GROUPED, MAPPED, PROJECTION, SAGA, SECURE, Resource, change, spoiled
from tests.support.cluster import Cluster

SAGAS = Path(__file__).parents[2] / "examples/sagas"
SHOP = Path(__file__).parents[2] / "examples/shop/k8s"


@pytest.fixture
def stored(api: Cluster, kind: Kind) -> Iterator[Resource]:
    """The good resource of a kind as the API server keeps it."""
    api.apply(GOOD[kind.kind])
    yield api.get(kind.plural, GOOD[kind.kind]["metadata"]["name"])
    api.kubectl("delete", kind.plural, "--all", "--wait=false")


@pytest.fixture
def projection(api: Cluster) -> Iterator[Resource]:
    """The stored Projection, for tests about its edits."""
    api.apply(PROJECTION)
    yield PROJECTION
    api.kubectl("delete", "projections", "--all", "--wait=false")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_api_server_fills_in_what_the_model_fills_in(stored: Resource, kind: Kind) -> None:
    understood = kind.spec.model_validate(GOOD[kind.kind]["spec"])

    assert stored["spec"] == understood.model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize(
    "resource", [GROUPED, CALLING, SECURE, MAPPED], ids=lambda resource: resource["metadata"]["name"]
)
def test_every_part_of_a_resource_is_filled_in_like_in_the_model(api: Cluster, resource: Resource) -> None:
    answer = api.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", input=yaml.safe_dump(resource))

    understood = KINDS[resource["kind"]].spec.model_validate(resource["spec"])
    assert yaml.safe_load(answer.stdout)["spec"] == understood.model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_field_of_the_status_is_lost(api: Cluster, stored: Resource, kind: Kind) -> None:
    status = kind.status.model_validate(
        {field.alias: _some(field.annotation) for field in kind.status.model_fields.values()}
    ).model_dump(mode="json", by_alias=True)
    document = {key: stored[key] for key in ("apiVersion", "kind")} | {
        "metadata": {key: stored["metadata"][key] for key in ("name", "namespace")},
        "status": status,
    }

    api.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", input=yaml.safe_dump(document))

    assert api.get(kind.plural, stored["metadata"]["name"])["status"] == status


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_autoscaler_can_scale_it(api: Cluster, stored: Resource, kind: Kind) -> None:
    name = f"{kind.plural}.consistency.marty.dev/{stored['metadata']['name']}"

    api.kubectl("scale", name, "--replicas=7")

    assert api.get(name)["spec"]["replicas"] == 7


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_category_lists_all_kinds_with_their_columns(api: Cluster, stored: Resource, kind: Kind) -> None:
    table = api.kubectl("get", "marty").stdout

    header, row = table.splitlines()
    assert header.split()[:3] == ["NAME", "READY", "STATE"]
    assert row.split()[:2] == [f"{kind.singular}.consistency.marty.dev/{stored['metadata']['name']}", "Running"]


def test_data_of_a_step_is_kept_as_it_is(api: Cluster) -> None:
    data = {"amount": 5000, "nested": {"list": [1, "two", {"three": 3.5}]}, "flag": False}

    answer = api.kubectl(
        *("create", "--dry-run=server", "-o", "yaml", "-f", "-"),
        input=yaml.safe_dump(spoiled(SAGA, change("spec.steps.0.data", data))),
    )

    assert yaml.safe_load(answer.stdout)["spec"]["steps"][0]["data"] == data


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec.readModel.table", "orders", "table"),
        ("spec.readModel.schema", "reporting", "schema"),
        ("spec.readModel.key", ["status"], "key"),
        ("spec.readModel.columns.note", "text", "columns"),
    ],
)
def test_a_read_model_keeps_its_table(api: Cluster, projection: Resource, path: str, value: object, field: str) -> None:
    refusal = api.refusal(spoiled(projection, change(path, value)))

    assert f"spec.readModel.{field}:" in refusal
    assert "make a new Projection with another name" in refusal


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.readModel.indexes", [["status", "total"]]),
        ("spec.events.order_refunded", {"update": {"status": "'refunded'"}}),
        ("spec.batchSize", 10),
        ("spec.state", "Paused"),
    ],
)
def test_what_needs_no_other_table_can_be_edited(api: Cluster, projection: Resource, path: str, value: object) -> None:
    api.apply(spoiled(projection, change(path, value)))


@pytest.mark.parametrize("file", ["saga.yaml", "outbox-relay.yaml", "projection.yaml"])
def test_the_resources_of_the_shop_are_good(api: Cluster, file: str) -> None:
    for document in yaml.safe_load_all((SHOP / file).read_text()):
        resource = copy.deepcopy(document)
        resource["metadata"]["namespace"] = "default"
        api.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(resource))


@pytest.mark.parametrize("file", sorted(SAGAS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_are_good(api: Cluster, file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        resource = copy.deepcopy(document)
        resource["metadata"]["namespace"] = "default"
        api.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(resource))
        if resource["kind"] in KINDS:
            check_expressions(KINDS[resource["kind"]].spec.model_validate(resource["spec"]))


def test_kubectl_explains_every_field(api: Cluster) -> None:
    text = api.kubectl("explain", "saga.spec.steps.compensation").stdout

    assert "Path that undoes the step." in text


def _some(annotation: Any) -> object:
    """A value that is not the zero of its type."""
    if annotation is int:
        return 42
    if annotation is float:
        return 1.5
    if annotation is str:
        return "text"
    if annotation == list[Revision]:
        return [{"revision": "7f3a01", "active": 3}]
    if annotation == list[DeadLetters]:
        return [
            {
                "cause": "5d41402abc4b",
                "count": 3,
                "sample": 42,
                "topic": "order.events",
                "eventType": "order_created",
                "message": "too large",
                "since": "2026-01-02T03:04:05Z",
            }
        ]
    if annotation == list[Breaker]:
        return [{"service": "payment", "state": "Open"}]
    return [
        {
            "type": "Ready",
            "status": "True",
            "reason": "AllWorkersReady",
            "message": "2 of 2 workers are ready.",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 3,
        }
    ]
