"""From a spec to what instances follow: the stored form says everything, and older forms stay readable."""

from typing import Any

import orjson
import pytest

from marty_msf.core.definition_check import check_expressions
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.calling import DEFAULT_CALL, Breaker, HttpCall, KafkaCall, PythonCall, SecretFile, SecretHeader
from marty_msf.core.saga.definition import load, stored_form
from marty_msf.core.saga.url_template import Template
from tests.unit.core.saga.definitions import definition, spec

URLS = {"url": "https://pay.example/orders/{order_id}/charge", "compensationUrl": "https://pay.example/refund"}


@pytest.mark.parametrize(
    ("groups", "stages"),
    [
        ([None, None], ((0,), (1,))),
        ([None, "g", "g", None], ((0,), (1, 2), (3,))),
        (["g", "g", "h", "h", "h"], ((0, 1), (2, 3, 4))),
    ],
)
def test_adjacent_steps_of_a_group_are_one_stage(groups: list[str | None], stages: tuple[tuple[int, ...], ...]) -> None:
    steps: list[dict[str, Any]] = [
        {"name": f"s{i}", **({"parallelGroup": group} if group else {})} for i, group in enumerate(groups)
    ]
    made = load(stored_form(spec(*steps, maxParallelSteps=3)))

    assert (made.stages, made.max_parallel_steps) == (stages, 3)


def test_every_part_of_a_call_is_understood() -> None:
    http = {
        **URLS,
        "method": "PUT",
        "headers": {"X-Shop": "7"},
        "headersFrom": [{"name": "Authorization", "secretRef": {"name": "pay", "key": "token"}}],
        "tls": {"caSecretRef": {"name": "pay-ca"}},
    }
    made = load(stored_form(spec({"name": "plain"}, {"name": "http", "compensation": "undo", "call": {"http": http}})))

    assert [step.call for step in made.steps] == [
        DEFAULT_CALL,
        HttpCall(
            url=Template(URLS["url"], "url"),
            undo_url=Template(URLS["compensationUrl"], "url"),
            method="PUT",
            headers={"X-Shop": "7"},
            secret_headers=(SecretHeader("Authorization", SecretFile("pay", "token")),),
            ca=SecretFile("pay-ca", "ca.crt"),
        ),
    ]


def test_a_python_handler_is_understood() -> None:
    step = {"name": "rate", "call": {"python": {"handler": "rate"}}}

    made = load(stored_form(spec(step, runtime={"handlers": "shop.sagas", "image": "shop:1"})))

    assert made.steps[0].call == PythonCall("rate")
    other = spec(step, runtime={"handlers": "shop.others"})
    assert load(stored_form(other)).revision == made.revision, "where the code is makes no revision"


def test_a_call_over_kafka_is_understood() -> None:
    topics = {"commandTopic": "pay.commands", "replyTopic": "pay.replies"}
    brokers = {"bootstrapServers": "kafka:9092"}
    plain, keyed = {"kafka": topics}, {"kafka": {**topics, "key": "order_id"}}

    made = load(stored_form(spec({"name": "a", "call": plain}, {"name": "b", "call": keyed}, kafka=brokers)))

    assert made.steps[0].call == KafkaCall("pay.commands", "pay.replies")
    key = made.steps[1].call.key if isinstance(made.steps[1].call, KafkaCall) else None
    assert key is not None
    assert key.path == "spec.steps[1].call.kafka.key"
    bad = spec({"name": "a", "call": {"kafka": {**topics, "key": "order_id &&"}}}, kafka=brokers)
    with pytest.raises(InvalidDefinition, match=r"spec.steps\[0\].call.kafka.key: 'order_id &&' is no CEL expression"):
        check_expressions(bad)


def test_a_breaker_is_understood() -> None:
    guarded = {"name": "a", "circuitBreaker": {"failureThreshold": 3}}

    assert load(stored_form(spec(guarded))).steps[0].breaker == Breaker(failure_threshold=3, open_seconds=60)


def test_another_call_is_another_revision() -> None:
    plain = stored_form(spec({"name": "a"}))

    assert stored_form(spec({"name": "a"}, workers=3)) == plain
    assert stored_form(spec({"name": "a", "call": {"http": {"headers": {"X-Shop": "7"}}}})) != plain


def test_a_definition_of_the_first_format_stays_readable() -> None:
    steps: list[dict[str, Any]] = [{"name": "a", "compensation": "undo"}, {"name": "b", "pivot": True}]
    form = orjson.loads(stored_form(spec(*steps)))
    old = {key: form[key] for key in ("timeout_ms", "undo_retry")} | {
        "format": 1,
        "steps": [{key: step[key] for key in step.keys() - {"group", "call", "breaker"}} for step in form["steps"]],
    }
    made = load(orjson.dumps(old))

    assert made.steps == definition(*steps).steps
    assert (made.stages, made.max_parallel_steps) == (((0,), (1,)), 1)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("ship.done", "names step 'ship', which comes later"),
        ("context.ship != null", "names step 'ship', which comes later"),
        *((f"context[{name}] == 1", "names step 'ship'") for name in ("'ship'", '"ship"', " 'ship' ")),
        ("has(context.ship)", "names step 'ship', which comes later"),
        ("reserve == 1", "names step 'reserve', which runs at the same time"),
    ],
)
def test_a_condition_cannot_look_ahead(condition: str, says: str) -> None:
    looking = spec(
        {"name": "reserve", "parallelGroup": "g"},
        {"name": "charge", "parallelGroup": "g", "condition": condition},
        {"name": "ship"},
    )

    with pytest.raises(InvalidDefinition, match=r"spec.steps\[1\].condition: ") as caught:
        check_expressions(looking)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    "condition", ["reserve.ok", "charge.due", "context['shipping'] == 1", "shipping == 'fast'", "context.total > 1"]
)
def test_a_condition_may_look_at_what_can_be_there(condition: str) -> None:
    check_expressions(spec({"name": "reserve"}, {"name": "charge", "condition": condition}, {"name": "ship"}))


def test_a_url_that_the_schema_cannot_judge_is_refused() -> None:
    with pytest.raises(InvalidDefinition) as caught:
        check_expressions(spec({"name": "a", "call": {"http": {"url": "http://h/../x"}}}))

    assert caught.value.path == "spec.steps[0].call.http.url"


@pytest.mark.parametrize("condition", ["'x'", "1 + 1", "[true]"])
def test_a_condition_that_can_never_be_true_or_false_is_refused(condition: str) -> None:
    with pytest.raises(InvalidDefinition, match=r"spec\.steps\[0\]\.condition: .*let it give true or false"):
        check_expressions(spec({"name": "a", "condition": condition}))


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"businessKey": "foo.bar"}, "spec.triggers[0].kafka.businessKey: 'foo.bar' reads foo, but only event exists"),
        ({"context": {"x": "order.id"}}, "spec.triggers[0].kafka.context.x: 'order.id' reads order"),
        ({"context": {"context": "event.id"}}, "spec.triggers[0].kafka.context.context: is reserved"),
    ],
)
def test_a_trigger_reads_its_event_only(mapping: dict[str, Any], says: str) -> None:
    trigger = {"kafka": {"topic": "orders", "eventType": "order_created", **mapping}}
    waiting = spec({"name": "a"}, kafka={"bootstrapServers": "kafka:9092"}, triggers=[trigger])

    with pytest.raises(InvalidDefinition) as caught:
        check_expressions(waiting)

    assert says in str(caught.value)
