"""`@circuit_breaker` on handlers: what it accepts, and what becomes of a Saga whose functions bear it."""

from types import SimpleNamespace
from typing import Any

import pytest

from marty_msf.core.errors import HandlersUnusable, InvalidDefinition
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.calling import Breaker
from marty_msf.patterns.saga import circuit_breaker, saga_step
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.calling.user_code import guarded


@circuit_breaker(failure_threshold=3, timeout=7)
async def charge(context: object) -> None: ...


@circuit_breaker(failure_threshold=4, timeout=7)
async def settle(context: object) -> None: ...


async def plain(context: object) -> None: ...


def spec(**breaker: Any) -> SagaSpec:
    steps = [
        {"name": name, "service": "payment", "action": name, "call": {"python": {"handler": name}}}
        for name in ("charge", "settle")
    ]
    steps[0].update(breaker)
    return SagaSpec.model_validate(
        {"database": {"urlSecretRef": {"name": "db"}}, "runtime": {"handlers": "shop"}, "steps": steps}
    )


def handlers(**functions: Any) -> Handlers:
    made = Handlers()
    for name, function in functions.items():
        made.register_step_handler(name, function)
    return made


def test_a_marked_function_gives_its_step_a_breaker() -> None:
    steps = guarded(spec(), handlers(charge=charge, settle=plain)).steps
    assert steps[0].circuit_breaker is not None
    assert (steps[0].circuit_breaker.failure_threshold, steps[0].circuit_breaker.open_seconds) == (3, 7)
    assert steps[1].circuit_breaker is None


def test_without_marks_the_definition_stays_as_it_is() -> None:
    saga = spec()
    assert guarded(saga, handlers(charge=plain, settle=plain)) is saga


def test_what_the_resource_says_counts_more_than_a_mark() -> None:
    saga = spec(circuitBreaker={"failureThreshold": 9, "openSeconds": 9})
    assert guarded(saga, handlers(charge=charge, settle=plain)) is saga


def test_functions_of_one_service_with_different_breakers_are_told() -> None:
    with pytest.raises(HandlersUnusable, match=r"spec.steps\[1\].circuitBreaker.*make them equal"):
        guarded(spec(), handlers(charge=charge, settle=settle))


def test_do_and_undo_with_different_breakers_are_told() -> None:
    made = handlers(charge=charge)
    made.register_compensation_handler("charge", settle)
    with pytest.raises(InvalidDefinition, match="handlers of 'charge': do and undo"):
        made.breaker("charge")


def test_it_goes_with_the_other_marks_in_any_order() -> None:
    module = SimpleNamespace(
        first=saga_step("a")(circuit_breaker(2, 2)(lambda _: None)),
        second=circuit_breaker(2, 2)(saga_step("b")(lambda _: None)),
    )
    made = Handlers()
    assert made.collect(module) == 2
    assert made.breaker("a") == made.breaker("b") == Breaker(2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failure_threshold": 0}, "failure_threshold"),
        ({"timeout": 0.5}, "timeout"),
        ({"timeout": 3601}, "timeout"),
        ({"failure_threshold": True}, "failure_threshold"),
        ({"failure_threshold": plain}, "without parentheses"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        circuit_breaker(**arguments)
