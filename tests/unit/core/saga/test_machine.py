"""The rules of the machine, one behaviour each."""

from dataclasses import replace

import pytest

from marty_msf.core.errors import IllegalTransition
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Broken,
    Due,
    Event,
    Failed,
    Misconfigured,
    Rejected,
    Restarted,
    Resumed,
    Started,
    Succeeded,
    Unusable,
    Withdrawn,
)
from marty_msf.core.saga.instance import CONTEXT_LIMIT_BYTES, Call, Command, End, Instance, State, Wait
from marty_msf.core.saga.machine import RESUME_LIMIT, advance, idempotency_key, request_body
from tests.unit.core.saga.definitions import ORDER, definition

START = Started(deadline_ms=300_000)
UNKNOWN = Failed("timed out", True, 0.5)
REFUSED = Failed("connection refused", False, 0.5)
NO = Rejected("HTTP 402", 0.5)
OK = Succeeded({})


def play(
    plan: Definition, *events: Event, now_ms: int = 1000, context: dict[str, object] | None = None
) -> tuple[Instance, list[Command]]:
    instance, commands = Instance(context or {}), list[Command]()
    for event in (START, *events):
        instance, more = advance(plan, instance, event, now_ms)
        commands += more
    return instance, commands


def calls(plan: Definition, commands: list[Command]) -> list[str]:
    return [plan.url_path(c.step, undo=c.undo) + f" {plan.steps[c.step].name}" for c in commands if isinstance(c, Call)]


def test_all_steps_in_order_complete_the_instance() -> None:
    instance, commands = play(ORDER, OK, OK, OK)

    assert instance.state is State.COMPLETED
    assert calls(ORDER, commands) == ["do reserve", "do charge", "do confirm"]
    assert commands[-1] == End()


def test_a_business_failure_undoes_what_succeeded_and_not_the_step_itself() -> None:
    instance, commands = play(ORDER, OK, NO, OK)

    assert instance.state is State.COMPENSATED
    assert calls(ORDER, commands) == ["do reserve", "do charge", "release reserve"]
    assert "charge was refused: HTTP 402" in instance.error


def test_a_failure_of_unknown_outcome_is_retried_then_undone_itself() -> None:
    instance, commands = play(ORDER, OK, UNKNOWN, Due(), UNKNOWN, OK, OK)

    assert instance.state is State.COMPENSATED
    assert calls(ORDER, commands) == ["do reserve", "do charge", "do charge", "refund charge", "release reserve"]


def test_a_call_that_never_reached_the_service_is_not_undone() -> None:
    instance, commands = play(ORDER, OK, REFUSED, Due(), REFUSED, OK)

    assert instance.state is State.COMPENSATED
    assert calls(ORDER, commands) == ["do reserve", "do charge", "do charge", "release reserve"]


def test_a_refusal_after_a_call_of_unknown_outcome_is_undone_all_the_same() -> None:
    _, commands = play(ORDER, OK, UNKNOWN, Due(), NO, OK, OK)

    assert calls(ORDER, commands)[-2:] == ["refund charge", "release reserve"]


def test_after_the_pivot_steps_are_retried_then_parked_and_nothing_is_undone() -> None:
    instance, commands = play(ORDER, OK, OK, NO, Due(), UNKNOWN)

    assert instance.state is State.PARKED
    assert calls(ORDER, commands) == ["do reserve", "do charge", "do confirm", "do confirm"]


def test_a_pivot_that_may_have_happened_and_has_no_undo_is_parked() -> None:
    plan = definition({"name": "reserve", "compensation": "release"}, {"name": "charge", "pivot": True})

    instance, _ = play(plan, OK, UNKNOWN, Due(), UNKNOWN)

    assert instance.state is State.PARKED
    assert "may have happened" in instance.error


def test_an_undo_that_keeps_failing_is_parked_with_both_errors() -> None:
    instance, commands = play(ORDER, OK, NO, UNKNOWN, Due(), Rejected("HTTP 422", 0.5))

    assert instance.state is State.PARKED
    assert calls(ORDER, commands)[-2:] == ["release reserve", "release reserve"]
    assert "HTTP 402" in instance.error
    assert "undo of reserve failed after 2 calls: HTTP 422" in instance.error


def test_misconfiguration_parks_and_undoes_nothing() -> None:
    instance, commands = play(ORDER, OK, Misconfigured("HTTP 404"))

    assert instance.state is State.PARKED
    assert calls(ORDER, commands) == ["do reserve", "do charge"]


def test_a_step_whose_condition_is_false_or_names_something_missing_is_skipped() -> None:
    plan = definition(
        {"name": "a", "condition": "customer.is_premium"},
        {"name": "b", "condition": "context.total > 10"},
        {"name": "c", "condition": "nothing.there"},
    )
    _, commands = play(plan, OK, context={"customer": {"is_premium": True}, "total": 3})

    assert calls(plan, commands) == ["do a"]


def test_a_pivot_that_is_skipped_is_passed_all_the_same() -> None:
    """What comes behind it has no undo."""
    plan = definition(
        {"name": "reserve", "compensation": "release"},
        {"name": "charge", "pivot": True, "condition": "false"},
        {"name": "confirm"},
    )
    instance, commands = play(plan, OK, NO, Due(), NO)

    assert instance.state is State.PARKED
    assert calls(plan, commands) == ["do reserve", "do confirm", "do confirm"]


def test_a_condition_sees_the_results_of_earlier_steps() -> None:
    plan = definition({"name": "a"}, {"name": "b", "condition": "score >= 5"})

    assert calls(plan, play(plan, Succeeded({"score": 5}))[1]) == ["do a", "do b"]


def test_a_condition_with_a_type_error_parks_the_instance() -> None:
    plan = definition({"name": "a", "condition": "total > 'x'"})

    instance, _ = play(plan, context={"total": 3})

    assert instance.state is State.PARKED
    assert "spec.steps[0].condition" in instance.error


def test_no_step_begins_after_the_deadline_and_what_happened_is_undone() -> None:
    instance, _ = play(ORDER)
    instance, (command,) = advance(ORDER, instance, OK, START.deadline_ms)

    assert instance.state is State.COMPENSATING
    assert command == Call(step=0, undo=True, timeout_ms=1000, not_after_ms=None, first=True)


def test_the_deadline_does_not_count_after_the_pivot() -> None:
    instance, _ = play(ORDER, OK)
    instance, (command,) = advance(ORDER, instance, OK, START.deadline_ms)

    assert command == Call(step=2, undo=False, timeout_ms=1000, not_after_ms=None, first=True)
    assert instance.beyond_pivot


def test_a_wait_ends_at_the_deadline_at_the_latest() -> None:
    instance, _ = play(ORDER)
    instance, (command,) = advance(ORDER, instance, UNKNOWN, START.deadline_ms - 10)
    assert command == Wait(START.deadline_ms, 0)

    instance, (command,) = advance(ORDER, instance, Due(), START.deadline_ms)
    assert isinstance(command, Call)
    assert command.undo


def test_an_instance_taken_up_after_its_deadline_ends_without_a_call() -> None:
    instance, commands = play(ORDER, now_ms=START.deadline_ms)

    assert (instance.state, commands) == (State.FAILED, [End()])


def test_a_resumed_call_is_made_again_with_the_same_key_and_counts_as_unknown() -> None:
    instance, commands = play(ORDER, Resumed())

    assert [idempotency_key(ORDER, "s", c) for c in commands if isinstance(c, Call)] == ["s:reserve:do:1"] * 2
    instance, (command,) = advance(ORDER, instance, NO, 1000)
    assert isinstance(command, Call)
    assert command.undo


def test_a_call_that_kills_its_workers_is_parked() -> None:
    instance, _ = play(ORDER, *[Resumed()] * (RESUME_LIMIT + 1))

    assert instance.state is State.PARKED
    assert "may kill workers" in instance.error


def test_a_restart_inside_the_process_is_no_sign_of_a_call_that_kills_workers() -> None:
    instance, commands = play(ORDER, *[Restarted()] * (2 * RESUME_LIMIT))

    assert (instance.state, len(calls(ORDER, commands))) == (State.RUNNING, 2 * RESUME_LIMIT + 1)
    assert instance.operations[0].unknown


def test_a_withdrawn_call_was_not_made() -> None:
    instance, commands = play(ORDER, Withdrawn(), Due(), NO)

    assert commands[1] == Wait(1000, 0)
    assert instance.state is State.FAILED
    assert calls(ORDER, commands) == ["do reserve", "do reserve"]


def test_results_merge_into_the_context_and_an_undo_carries_its_steps_result() -> None:
    instance, _ = play(ORDER, Succeeded({"reservation": "r1"}), NO, context={"order": 7})

    assert instance.context == {"order": 7, "reservation": "r1"}
    assert request_body(ORDER, instance, "s", Call(0, True, 1000, None, True)) == (
        b'{"saga_id":"s","step":"reserve","context":{"order":7,"reservation":"r1"},"data":{},"result":{"reservation":"r1"}}'
    )


@pytest.mark.parametrize(
    "answer", [Succeeded({"context": 1}), Succeeded({"x": "x" * CONTEXT_LIMIT_BYTES}), Unusable("too large")]
)
def test_a_result_that_cannot_be_kept_parks_the_instance_with_the_step_done(answer: Event) -> None:
    instance, _ = play(ORDER, answer)

    assert instance.state is State.PARKED
    assert [it.step for it in instance.happened] == [0]
    assert "succeeded, but" in instance.error


@pytest.mark.parametrize("events", [(), (OK,), (UNKNOWN,), (OK, NO)])
def test_a_fault_of_ours_parks_the_instance_wherever_it_is(events: tuple[Event, ...]) -> None:
    before, _ = play(ORDER, *events)
    instance, (command,) = advance(ORDER, before, Broken("a bug"), 1000)

    assert (instance, command) == (replace(before, state=State.PARKED, error=instance.error), End())
    assert instance.error.endswith("a bug")


def test_the_answer_of_an_undo_merges_nothing() -> None:
    instance, _ = play(ORDER, OK, NO, Succeeded({"released": True}))

    assert (instance.state, instance.context) == (State.COMPENSATED, {})


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ((), START),
        ((), Due()),
        ((UNKNOWN,), OK),
        ((OK, OK, OK), OK),
        ((OK, OK, OK), Broken("x")),
        ((Misconfigured("x"),), OK),
        ((UNKNOWN,), Resumed()),
        ((UNKNOWN,), Restarted()),
    ],
)
def test_an_event_that_does_not_fit_is_refused(events: tuple[Event, ...], wrong: Event) -> None:
    instance, _ = play(ORDER, *events)
    before = replace(instance)

    with pytest.raises(IllegalTransition):
        advance(ORDER, instance, wrong, 1000)
    assert instance == before
