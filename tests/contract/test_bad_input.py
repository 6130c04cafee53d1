"""What the schema can tell is refused at `kubectl apply`, with the path and the remedy, and by the models as well."""

import pytest
from pydantic import ValidationError

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kinds import KINDS
from tests.contract.bad import Bad
from tests.contract.bad_projections import BAD_PROJECTIONS
from tests.contract.bad_relays import BAD_RELAYS
from tests.contract.resources import (
    CALLING,
    GROUPED,
    RELAY,
    SAGA,
    change,
    remove,
    spoiled,
)
from tests.support.cluster import Cluster

PIVOT = {"name": "charge", "service": "payment", "action": "charge", "pivot": True}

BAD_SAGAS = {
    "saga without steps": Bad(SAGA, change("spec.steps", []), "spec.steps", "at least 1 items"),
    "saga that forgot its steps": Bad(SAGA, remove("spec.steps"), "spec.steps", "Required value"),
    "duplicate step names": Bad(
        SAGA,
        change("spec.steps.2.name", "charge"),
        "spec.steps",
        'step name "charge" is used more than once: give each step its own name',
    ),
    "compensation after the pivot": Bad(
        SAGA,
        change("spec.steps.2.compensation", "unship"),
        "spec.steps",
        'step "ship" has a compensation after the pivot step "charge": remove it, a step after the pivot is only retried',
    ),
    "two pivots": Bad(
        SAGA,
        change("spec.steps.2.pivot", True),
        "spec.steps",
        'steps "charge" and "ship" are both the pivot: keep pivot: true on one of them',
    ),
    "negative saga time-out": Bad(
        SAGA, change("spec.timeoutSeconds", -1), "spec.timeoutSeconds", "greater than or equal to 1"
    ),
    "a cached result of a step that is undone": Bad(
        SAGA,
        change("spec.steps.0.cache", {"ttlSeconds": 60, "key": "context.customer"}),
        "spec.steps[0].cache",
        "what is undone, or cannot be, has to be done each time: remove the cache, or the compensation and pivot",
    ),
    "a cached pivot": Bad(
        SAGA,
        change("spec.steps", [{**PIVOT, "cache": {"ttlSeconds": 60, "key": "context.customer"}}]),
        "spec.steps[0].cache",
        "what is undone, or cannot be, has to be done each time",
    ),
    "a cached reply": Bad(
        CALLING,
        change("spec.steps.2.cache", {"ttlSeconds": 60, "key": "context.customer"}),
        "spec.steps[2].cache",
        "replies over Kafka are not cached: call the step over HTTP, or remove the cache",
    ),
    "a cache without a time": Bad(
        SAGA,
        change("spec.steps.2.cache", {"key": "context.customer"}),
        "spec.steps[2].cache.ttlSeconds",
        "Required value",
    ),
    "instances that are stuck at once": Bad(
        SAGA, change("spec.stuckAfterSeconds", 0), "spec.stuckAfterSeconds", "greater than or equal to 1"
    ),
    "history that goes at once": Bad(
        SAGA,
        change("spec.retention", {"completedHours": 0}),
        "spec.retention.completedHours",
        "greater than or equal to 1",
    ),
    "negative step time-out": Bad(
        SAGA, change("spec.steps.0.timeoutMs", -1), "spec.steps[0].timeoutMs", "greater than or equal to 1"
    ),
    "no attempt at all": Bad(
        SAGA, change("spec.steps.2.retry.attempts", 0), "spec.steps[2].retry.attempts", "greater than or equal to 1"
    ),
    "unknown field": Bad(SAGA, change("spec.timeoutSecond", 5), "spec.timeoutSecond", "field not declared in schema"),
    "unknown field of a step": Bad(
        SAGA, change("spec.steps.0.timeout", 5), "spec.steps[0].timeout", "field not declared in schema"
    ),
    "step name that is no identifier": Bad(
        SAGA, change("spec.steps.0.name", "Reserve Stock"), "spec.steps[0].name", "should match '^[a-z][a-z0-9_]*$'"
    ),
    "service that smuggles a path": Bad(
        SAGA, change("spec.steps.0.service", "evil.example/x?"), "spec.steps[0].service", "should match"
    ),
    "action that climbs": Bad(SAGA, change("spec.steps.0.action", "../admin"), "spec.steps[0].action", "should match"),
    "action with an empty part": Bad(
        SAGA, change("spec.steps.0.action", "x//y"), "spec.steps[0].action", "should match"
    ),
    "service with an empty label": Bad(
        SAGA, change("spec.steps.0.service", "a..b"), "spec.steps[0].service", "should match"
    ),
    "service on a port that does not exist": Bad(
        SAGA, change("spec.steps.0.service", "svc:65536"), "spec.steps[0].service", "should match"
    ),
    "waits of a step that descend": Bad(
        SAGA,
        change("spec.steps.2.retry", {"initialBackoffMs": 300, "maxBackoffMs": 299}),
        "spec.steps[2].retry",
        "initialBackoffMs is longer than maxBackoffMs: lower the one or raise the other",
    ),
    "waits of compensations that descend": Bad(
        SAGA,
        change("spec.compensationDefaults", {"retry": {"maxBackoffMs": 100}}),
        "spec.compensationDefaults.retry",
        "initialBackoffMs is longer than maxBackoffMs",
    ),
    "trigger on a topic that Kafka cannot have": Bad(
        spoiled(SAGA, change("spec.kafka", RELAY["spec"]["kafka"])),
        change("spec.triggers", [{"kafka": {"topic": "..", "eventType": "e"}}]),
        "spec.triggers[0].kafka.topic",
        "should match",
    ),
    "empty condition": Bad(SAGA, change("spec.steps.0.condition", ""), "spec.steps[0].condition", "at least 1 chars"),
    "trigger without kafka": Bad(
        SAGA,
        change("spec.triggers", [{"kafka": {"topic": "order.events", "eventType": "order_created"}}]),
        "spec.triggers",
        "set spec.kafka.bootstrapServers",
    ),
    "context name that CEL cannot say": Bad(
        spoiled(SAGA, change("spec.kafka", RELAY["spec"]["kafka"])),
        change("spec.triggers", [{"kafka": {"topic": "t", "eventType": "e", "context": {"order-id": "event.id"}}}]),
        "spec.triggers[0].kafka.context",
        'name "order-id" is not allowed',
    ),
    "state in lower case": Bad(
        SAGA, change("spec.state", "running"), "spec.state", 'supported values: "Running", "Paused", "Stopped"'
    ),
    **{
        f"group: {name}": Bad(GROUPED, spoil, path, says)
        for name, (spoil, path, says) in {
            "torn apart": (
                change("spec.steps.3.parallelGroup", "checks"),
                "spec.steps",
                'step "ship" does not stand beside the other steps of its parallelGroup: put them next to each other',
            ),
            "of one step": (
                remove("spec.steps.0.parallelGroup"),
                "spec.steps",
                'step "check_stock" is alone in its parallelGroup: give the steps beside it the same group',
            ),
            "with the pivot": (
                change("spec.steps.1.pivot", True),
                "spec.steps[1].parallelGroup",
                "the pivot cannot be in a parallelGroup",
            ),
            "with the name of its step": (
                change("spec.steps.0.parallelGroup", "check_customer"),
                "spec.steps[0].parallelGroup",
                "bears its own name: give the group another name",
            ),
            "without a name": (
                change("spec.steps.0.parallelGroup", ""),
                "spec.steps[0].parallelGroup",
                "at least 1 chars",
            ),
            "without room": (change("spec.maxParallelSteps", 0), "spec.maxParallelSteps", "greater than or equal to 1"),
        }.items()
    },
    **{
        f"call: {name}": Bad(CALLING, spoil, path, says)
        for name, (spoil, path, says) in {
            "of no form": (
                change("spec.steps.0.call", {}),
                "spec.steps[0].call",
                "give exactly one of http, python and kafka",
            ),
            "of two forms": (
                change("spec.steps.0.call.python", {"handler": "h"}),
                "spec.steps[0].call",
                "give exactly one of http, python and kafka",
            ),
            "of kafka without brokers": (
                remove("spec.kafka"),
                "spec.steps",
                "a step is called over Kafka, but spec.kafka is missing: set spec.kafka.bootstrapServers",
            ),
            "of kafka whose commands would be read as replies": (
                change("spec.steps.2.call.kafka.replyTopic", "ship.commands"),
                "spec.steps",
                "a step's replyTopic carries commands or a trigger's events too",
            ),
            "of kafka whose replies would start instances": (
                change("spec.triggers", [{"kafka": {"topic": "ship.replies", "eventType": "e"}}]),
                "spec.steps",
                "a step's replyTopic carries commands or a trigger's events too",
            ),
            "of kafka without a way back": (
                remove("spec.steps.2.call.kafka.replyTopic"),
                "spec.steps[2].call.kafka.replyTopic",
                "Required value",
            ),
            "of a topic that is none": (
                change("spec.steps.2.call.kafka.commandTopic", "ship commands"),
                "spec.steps[2].call.kafka.commandTopic",
                "should match",
            ),
            "of python without handlers": (
                remove("spec.runtime"),
                "spec.steps",
                "a step is a Python handler, but spec.runtime.handlers is missing",
            ),
            "of code that nothing imports": (
                change("spec.runtime", {"codeConfigMapRef": {"name": "code"}}),
                "spec.runtime.codeConfigMapRef",
                "set handlers to the module to import",
            ),
            "of a module that is none": (
                change("spec.runtime.handlers", "shop/sagas.py"),
                "spec.runtime.handlers",
                "should match",
            ),
            "of a host that data chooses": (
                change("spec.steps.0.call.http.url", "https://{host}/charge"),
                "spec.steps[0].call.http.url",
                "should match",
            ),
            "of another scheme": (
                change("spec.steps.0.call.http.url", "file:///etc/passwd"),
                "spec.steps[0].call.http.url",
                "should match",
            ),
            "of a url whose brace stays open": (
                change("spec.steps.0.call.http.url", "https://pay.example/orders/{order_id"),
                "spec.steps[0].call.http.url",
                "should match",
            ),
            "that cannot be undone": (
                remove("spec.steps.0.call.http.compensationUrl"),
                "spec.steps[0].call.http",
                "url and compensation go with a compensationUrl",
            ),
            "that undoes by GET": (
                change("spec.steps.0.call.http.method", "GET"),
                "spec.steps[0].call.http.method",
                "a GET cannot undo anything",
            ),
            "with a header of the worker": (
                change("spec.steps.0.call.http.headers", {"Idempotency-Key": "1"}),
                "spec.steps[0].call.http.headers",
                "a header is set by the worker itself",
            ),
            "with a password in the spec": (
                change("spec.steps.0.call.http.headers", {"authorization": "Basic x"}),
                "spec.steps[0].call.http.headers",
                "read it from a Secret by headersFrom",
            ),
            "with a header that ends the header": (
                change("spec.steps.0.call.http.headers", {"X-Shop": "1\r\nHost: x"}),
                "spec.steps[0].call.http.headers.X-Shop",
                "should match",
            ),
            "with a secret host": (
                change("spec.steps.0.call.http.headersFrom.0.name", "Host"),
                "spec.steps[0].call.http.headersFrom",
                "a header is set by the worker itself",
            ),
            "with tls in the clear": (
                change("spec.steps.0.call.http.url", "http://pay.example/charge"),
                "spec.steps[0].call.http.tls",
                "tls is for an https URL",
            ),
        }.items()
    },
    "breaker that never opens": Bad(
        SAGA,
        change("spec.steps.0.circuitBreaker", {"failureThreshold": 0}),
        "spec.steps[0].circuitBreaker.failureThreshold",
        "greater than or equal to 1",
    ),
    "two breakers for one service": Bad(
        spoiled(SAGA, change("spec.steps.1.circuitBreaker", {"failureThreshold": 3})),
        change("spec.steps.2", {"name": "ship", "service": "payment", "action": "x", "circuitBreaker": {}}),
        "spec.steps",
        'step "charge" has another circuitBreaker than a step of the same service, which has only one',
    ),
    "lock without a key": Bad(
        SAGA,
        change("spec.semanticLock", {"leaseSeconds": 60}),
        "spec.semanticLock",
        "has no key, or both forms: give exactly one of key and keys",
    ),
    "lock with both forms of key": Bad(
        SAGA,
        change("spec.semanticLock", {"key": "context.order", "keys": ["context.order"]}),
        "spec.semanticLock",
        "give exactly one of key and keys",
    ),
    "lock whose lease is shorter than a change of owner": Bad(
        SAGA,
        change("spec.semanticLock", {"key": "context.order", "leaseSeconds": 5}),
        "spec.semanticLock.leaseSeconds",
        "greater than or equal to 30",
    ),
    "lock that does something else on conflict": Bad(
        SAGA,
        change("spec.semanticLock", {"key": "context.order", "onConflict": "Steal"}),
        "spec.semanticLock.onConflict",
        'supported values: "Wait", "Reject"',
    ),
    "no database": Bad(SAGA, remove("spec.database"), "spec.database", "Required value"),
}
BAD = {**BAD_SAGAS, **BAD_RELAYS, **BAD_PROJECTIONS}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_path_and_remedy(api: Cluster, bad: Bad) -> None:
    resource = spoiled(bad.good, bad.spoil)

    refusal = api.refusal(resource)

    assert f"{bad.path}:" in refusal
    assert bad.says in refusal


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_the_models_refuse_what_the_api_server_refuses(bad: Bad) -> None:
    resource = spoiled(bad.good, bad.spoil)

    with pytest.raises((InvalidDefinition, ValidationError)):
        KINDS[resource["kind"]].spec.model_validate(resource["spec"])


@pytest.mark.parametrize("name", ["order.processing", "1st-saga", "a" * 64])
def test_a_name_that_cannot_name_a_service_is_refused(api: Cluster, name: str) -> None:
    refusal = api.refusal(spoiled(SAGA, change("metadata.name", name)))

    assert f'metadata.name "{name}" is not allowed: use at most 63 lower-case letters' in refusal
