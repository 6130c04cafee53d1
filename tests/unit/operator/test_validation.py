"""What the schema cannot tell is refused with path, value and remedy; what ran before is found again."""

from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import RunState
from marty_operator.plan.workload import CONFIG_FILE, config_of, objects
from marty_operator.validation import last_good, parse_spec, scaled
from tests.unit.operator.examples import KINDS, SPECS, desired, resource

STEP = SPECS["Saga"]["steps"][0]


def grouped(name: str) -> dict[str, Any]:
    return {**STEP, "name": name, "parallelGroup": "g"}


def calling(**http: Any) -> dict[str, Any]:
    return {**STEP, "call": {"http": http}}


@pytest.mark.parametrize("kind", KINDS)
def test_good_specs_are_accepted(kind: str) -> None:
    parse_spec(resource(kind).key, resource(kind).spec)


@pytest.mark.parametrize(
    ("kind", "change", "path"),
    [
        ("Saga", {"steps": [{**STEP, "condition": "customer.is_premium &&"}]}, "spec.steps[0].condition"),
        ("Saga", {"steps": [STEP, STEP]}, "spec.steps[1].name"),
        ("Saga", {"steps": [{**STEP, "pivot": True}, {**STEP, "name": "ship"}]}, "spec.steps[1].compensation"),
        ("Saga", {"steps": []}, "spec.steps"),
        ("Saga", {"steps": [{**STEP, "timeoutMs": -1}]}, "spec.steps[0].timeoutMs"),
        ("Saga", {"workes": 3}, "spec.workes"),
        ("Saga", {"database": {}}, "spec.database.urlSecretRef"),
        ("Saga", {"kafka": None}, "spec.triggers"),
        (
            "Saga",
            {"triggers": [{"kafka": {"topic": "t", "eventType": "e", "businessKey": "event."}}]},
            "spec.triggers[0].kafka.businessKey",
        ),
        ("Saga", {"steps": [{**STEP, "condition": "nosuchfn(a)"}]}, "spec.steps[0].condition"),
        ("Saga", {"steps": [{**STEP, "retry": {"maxBackoffMs": 1}}]}, "spec.steps[0].retry.initialBackoffMs"),
        ("Saga", {"steps": [{**STEP, "parallelGroup": "g"}]}, "spec.steps[0].parallelGroup"),
        ("Saga", {"steps": [grouped("a"), STEP, grouped("b")]}, "spec.steps[2].parallelGroup"),
        ("Saga", {"steps": [grouped("a"), {**grouped("b"), "pivot": True}]}, "spec.steps[1].parallelGroup"),
        ("Saga", {"steps": [grouped("g"), grouped("a")]}, "spec.steps[0].parallelGroup"),
        ("Saga", {"steps": [calling(url="https://x/a")]}, "spec.steps[0].call.http.compensationUrl"),
        ("Saga", {"steps": [calling(url="https://x/{a")]}, "spec.steps[0].call.http.url"),
        ("Saga", {"steps": [calling(method="GET")]}, "spec.steps[0].call.http.method"),
        ("Saga", {"steps": [calling(headers={"Cookie": "x"})]}, "spec.steps[0].call.http.headers"),
        ("Saga", {"steps": [calling(tls={"caSecretRef": {"name": "ca"}})]}, "spec.steps[0].call.http.tls"),
        ("Saga", {"steps": [{**STEP, "call": {}}]}, "spec.steps[0].call"),
        ("Saga", {"steps": [{**STEP, "call": {"python": {"handler": "h"}}}]}, "spec.steps[0].call.python"),
        ("Saga", {"runtime": {"codeConfigMapRef": {"name": "c"}}}, "spec.runtime.codeConfigMapRef"),
        ("Saga", {"semanticLock": {"leaseSeconds": 60}}, "spec.semanticLock"),
        ("Saga", {"semanticLock": {"key": "context."}}, "spec.semanticLock.key"),
        ("Saga", {"semanticLock": {"keys": ["a", "b +"]}}, "spec.semanticLock.keys[1]"),
        ("Saga", {"steps": [{**STEP, "condition": "ship.ok"}, {**STEP, "name": "ship"}]}, "spec.steps[0].condition"),
        ("OutboxRelay", {"kafka": {"bootstrapServers": "no port"}}, "spec.kafka.bootstrapServers"),
        ("OutboxRelay", {"retention": {"publishedHours": 0}}, "spec.retention.publishedHours"),
        ("OutboxRelay", {"retention": {"archiveTable": "Archive; DROP"}}, "spec.retention.archiveTable"),
        ("OutboxRelay", {"retention": {"archiveTable": "saga_journal_20260102"}}, "spec.retention.archiveTable"),
        ("OutboxRelay", {"deadLetter": {"topic": "__consumer_offsets"}}, "spec.deadLetter.topic"),
        (
            "OutboxRelay",
            {
                "source": {
                    "table": "app.outbox",
                    "topic": "__share_group_state",
                    "columns": {"eventType": "type", "payload": "payload"},
                }
            },
            "spec.source.topic",
        ),
        (
            "OutboxRelay",
            {"source": {"table": "app.outbox", "columns": {"eventType": "type", "payload": "payload"}}},
            "spec.source.topic",
        ),
        (
            "OutboxRelay",
            {"source": {"table": "marty.x", "topic": "t", "columns": {"eventType": "type", "payload": "p"}}},
            "spec.source.table",
        ),
        (
            "Saga",
            {"kafka": {"bootstrapServers": "k:9", "authentication": {"type": "tls", "secretRef": {"name": "u"}}}},
            "spec.kafka.authentication",
        ),
        ("OutboxRelay", {"kafka": {"bootstrapServers": "k:9", "producer": {"acks": "0"}}}, "spec.kafka.producer.acks"),
        (
            "OutboxRelay",
            {"batchTimeoutMs": 1000, "kafka": {"bootstrapServers": "k:9", "producer": {"lingerMs": 501}}},
            "spec.kafka.producer.lingerMs",
        ),
        ("Projection", {"events": {"made": {"upsert": {"total": "event.("}}}}, "spec.events.made.upsert.total"),
        ("Projection", {"events": {"made": {"upsert": {"price": "event.p"}}}}, "spec.events.made"),
    ],
)
def test_a_bad_spec_is_refused_with_its_path(kind: str, change: dict[str, Any], path: str) -> None:
    bad = resource(kind, **change)
    with pytest.raises(InvalidDefinition) as caught:
        parse_spec(bad.key, bad.spec)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.remedy


def test_the_last_good_configuration_is_found_in_the_config_map() -> None:
    want = desired()
    config_map = next(m for m in objects(want) if m["kind"] == "ConfigMap")
    assert last_good(config_map) == want.config


@pytest.mark.parametrize(
    "config_map", [None, {}, {"data": {}}, {"data": {CONFIG_FILE: "{"}}, {"data": {CONFIG_FILE: "{}"}}]
)
def test_without_a_readable_config_map_there_is_no_last_good(config_map: dict[str, Any] | None) -> None:
    assert last_good(config_map) is None


@pytest.mark.parametrize(
    ("spec", "replicas", "state"),
    [
        ({"replicas": 7}, 7, RunState.RUNNING),
        ({"replicas": 7, "state": "Stopped"}, 7, RunState.STOPPED),
        ({"replicas": 7, "state": "Paused"}, 7, RunState.RUNNING),
        ({"replicas": "many"}, 1, RunState.RUNNING),
        ({}, 1, RunState.RUNNING),
    ],
)
def test_scaling_and_stopping_work_while_the_rest_is_invalid(
    spec: dict[str, Any], replicas: int, state: RunState
) -> None:
    made = resource()
    good = config_of(made.key, parse_spec(made.key, made.spec))
    result = scaled(good, spec)
    assert (result.replicas, result.state) == (replicas, state)
