"""Steps of a start: read in both forms, and compiled into a definition that knows nothing of their data."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.calling import HttpCall, PythonCall
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.instance import members_problem
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.patterns.saga import circuit_breaker
from marty_msf.patterns.saga.compiling import KEPT, Bounds, Compiler, asks_the_same, saga_type_of
from marty_msf.patterns.saga.steps import read_steps
from marty_msf.worker.saga.calling.handlers import Handlers


async def work(context: object) -> None: ...


@circuit_breaker(failure_threshold=3, timeout=7)
async def fragile(context: object) -> None: ...


def compiler(*steps: str, undos: Sequence[str] = (), **marked: Any) -> Compiler:
    handlers = Handlers()
    for name in steps:
        handlers.register_step_handler(name, marked.get(name, work))
    for name in undos:
        handlers.register_compensation_handler(name, work)
    return Compiler(handlers, Bounds())


def definition(made: Compiler, *steps: Mapping[str, Any]) -> Definition:
    return made.compile("order", read_steps(steps)).definition


def nested(levels: int) -> dict[str, Any]:
    """An object with so many levels of objects, itself included."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def test_data_may_nest_as_deep_as_a_context_can_hold_it() -> None:
    (form,) = read_steps([{"step": "charge", "data": nested(62)}])
    assert members_problem({OWN_DATA: {"charge": form.data}}) is None
    assert members_problem({OWN_DATA: {"charge": nested(63)}}) is not None


def test_a_step_of_a_service_is_called_there() -> None:
    found = definition(
        compiler(),
        {
            "step_name": "charge",
            "service_name": "payment_service",
            "action": "take",
            "compensation_action": "give_back",
            "timeout_ms": 700,
            "retry_attempts": 3,
            "condition": "context.total > 0",
            "pivot": True,
        },
    )
    (step,) = found.steps
    assert (step.service, step.action, step.compensation) == ("payment-service", "take", "give_back")
    assert isinstance(step.call, HttpCall)
    assert (step.timeout_ms, step.retry.attempts, step.pivot, step.own_data) == (700, 3, True, True)
    assert step.condition is not None


def test_a_step_with_a_handler_stays_with_handlers_and_needs_no_service() -> None:
    made = compiler("charge", undos=["charge"], charge=fragile)
    for step in ({"step": "charge"}, {"step_name": "charge", "service_name": "payment_service"}):
        (found,) = definition(made, step).steps
        assert found.call == PythonCall("charge")
        assert found.compensation is not None
        assert found.breaker is not None
        assert found.breaker.open_seconds == 7


def test_what_differs_in_data_is_one_definition_compiled_once() -> None:
    made = compiler("charge")
    forms = [read_steps([{"step": "charge", "amount": amount, "data": {"currency": "EUR"}}]) for amount in range(3)]
    assert [dict(form[0].data) for form in forms] == [{"currency": "EUR", "amount": n} for n in range(3)]
    assert len({id(made.compile("order", form)) for form in forms}) == 1
    other = made.compile("gift", forms[0])
    assert other.definition.revision != made.compile("order", forms[0]).definition.revision
    assert saga_type_of(other.stored) == "gift"


def test_the_same_steps_are_known_again_wherever_they_were_compiled() -> None:
    steps = [{"step_name": "charge", "service_name": "payment", "data": {"amount": 1}}]
    here = compiler("charge").compile("order", read_steps(steps))
    there = Compiler(Handlers(), Bounds(timeout_seconds=9)).compile("order", read_steps(steps))
    assert here.definition.revision != there.definition.revision
    assert asks_the_same(here.stored, there.stored)
    longer = read_steps([{**steps[0], "timeout_ms": 5}])
    assert not asks_the_same(here.stored, compiler("charge").compile("order", longer).stored)


def test_only_so_many_definitions_are_kept_and_the_same_steps_give_the_same_again() -> None:
    made = compiler("charge")
    first = definition(made, {"step": "charge", "timeout_ms": 1}).revision
    for number in range(KEPT + 1):
        definition(made, {"step": "charge", "timeout_ms": number + 2})
    assert definition(made, {"step": "charge", "timeout_ms": 1}).revision == first


def test_a_handler_that_could_undo_a_step_behind_the_pivot_does_not() -> None:
    made = compiler("reserve", "charge", "ship", undos=["reserve", "charge", "ship"])
    steps = definition(made, {"step": "reserve"}, {"step": "charge", "pivot": True}, {"step": "ship"}).steps
    assert [step.compensation is not None for step in steps] == [True, True, False]
    with pytest.raises(InvalidDefinition, match=r"steps\[1\].compensation: step 'ship' has a compensation after"):
        definition(made, {"step": "charge", "pivot": True}, {"step": "ship", "compensation": "unship"})


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"step": "charge", "step_name": "charge"}], r"steps\[0\]: has step and step_name"),
        ([{"step": "charge", "compensation": "a", "compensation_action": "b"}], r"steps\[0\]: has compensation and"),
        ([{"service_name": "payment"}], r"steps\[0\].step_name: is missing"),
        ([{"step_name": "charge", "compensation_action": "undo"}], r"compensation_action: step 'charge' has a handler"),
        ([{"step_name": "Charge", "service_name": "payment"}], r"steps\[0\].step_name: 'Charge'"),
        ([{"step": "charge", "pivot": "yes"}], r"steps\[0\].pivot: 'yes' is neither"),
        ([{"step": "charge", "retry_attempts": True}], r"steps\[0\].retry_attempts: True is no whole number"),
        ([{"step": "charge", "timeout_ms": 3_600_001}], r"steps\[0\].timeout_ms: 3600001"),
        ([{"step": "charge", "parallel_group": "charge"}], r"steps\[0\].parallel_group: 'charge' is the step's own"),
        (
            [{"step": "charge", "pivot": True}, {"step": "pay", "pivot": True}],
            r"steps\[1\].pivot: 'charge' is the pivot",
        ),
        ([{"step": "charge", "condition": "pay.done"}, {"step": "pay"}], r"steps\[0\].condition: .*comes later"),
        ([{"step": "charge", "condition": "pay\udcff"}], r"steps\[0\].condition: 'pay\\udcff' has a NUL or a lone"),
        (
            [{"step": "charge", "condition": "5"}],
            r"^steps\[0\].condition: '5' gave int, not a boolean: let it give true or false$",
        ),
        (
            [{"step": "charge", "condition": "1 / 0 == 1"}],
            r"^steps\[0\].condition: '1 / 0 == 1' failed: [^:]*: let it give true or false$",
        ),
        ([{"step": "S 1"}], r"^steps\[0\].step: 'S 1' is no step's name: use lower-case letters"),
        ([{"step": "charge", "data": [1]}], r"steps\[0\].data: is a list"),
        ([{"step": "charge", "data": nested(63)}], r"^steps\[0\].data: is nested over 62 levels deep: keep"),
        ([{"step": "charge", "data": nested(900)}], r"^steps\[0\].data: is no JSON .*: give JSON values nested"),
        ([{"step": "charge", "text": "x" * 200_000}], r"^steps\[0\].data: has 2000\d\d bytes, 196608 are allowed"),
    ],
)
def test_what_cannot_run_is_refused_by_its_path(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        definition(compiler("charge", "pay"), *steps)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (Bounds(timeout_seconds=0), "timeout_seconds: 0"),
        (Bounds(step_timeout_ms=0), "step_timeout_ms: 0"),
        (Bounds(max_parallel_steps=65), "max_parallel_steps: 65"),
    ],
)
def test_bounds_that_cannot_be_are_refused_at_once(bounds: Bounds, message: str) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        Compiler(Handlers(), bounds)
