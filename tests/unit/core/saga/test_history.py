from collections.abc import Sequence

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Due,
    Event,
    Failed,
    Misconfigured,
    Rejected,
    Resumed,
    Retry,
    Started,
    Succeeded,
    Withdrawn,
)
from marty_msf.core.saga.history import CALL, History, Line, history, in_work
from marty_msf.core.saga.instance import State
from marty_msf.core.saga.journal import encode
from tests.unit.core.saga.definitions import ORDER, definition
from tests.unit.core.saga.test_journal import GOLDEN

PAIR = definition(
    {"name": "check", "group": "checks"},
    {"name": "reserve", "group": "checks", "compensation": "release"},
    {"name": "confirm"},
)


def past(of: Definition, *events: tuple[int, Event]) -> History:
    return history(of, {}, [encode(event, at, b"") for at, event in events])


def calls(lines: Sequence[Line]) -> list[tuple[str, str, int, int | None, str]]:
    return [
        (line.step, "undo" if line.undo else "do", line.attempt, line.duration_ms, line.outcome)
        for line in lines
        if line.event == CALL
    ]


def test_every_attempt_has_its_duration_and_outcome() -> None:
    found = history(ORDER, {"order": 7}, GOLDEN)

    assert calls(found.lines) == [
        ("reserve", "do", 1, 10, "succeeded"),
        ("charge", "do", 1, 10, "unknown"),
        # Due again, a new owner, its hand-over, due again: the call that was withdrawn was never made.
        ("charge", "do", 2, None, "unknown"),
        ("charge", "do", 2, 7, "refused"),
        ("charge", "undo", 1, 10, "succeeded"),
        ("reserve", "undo", 1, 10, "misconfigured"),
    ]
    assert [line.event for line in found.lines if line.event != CALL] == ["started", "compensating", "parked"]
    assert found.instance.state is State.PARKED
    assert in_work(ORDER, found.instance) == "undo of reserve"
    assert found.changed_ms == 3050


def test_steps_at_the_same_time_keep_their_own_lines() -> None:
    found = past(
        PAIR,
        (1000, Started(900_000)),
        (1010, Succeeded({"a": 1}, 1)),
        (1030, Failed("HTTP 503", True, 0.0, None, 0)),
    )

    assert calls(found.lines) == [("check", "do", 1, 30, "unknown"), ("reserve", "do", 1, 10, "succeeded")]
    assert in_work(PAIR, found.instance) == "check"


def test_a_call_that_was_handed_back_leaves_no_line() -> None:
    found = past(ORDER, (1000, Started(900_000)), (1001, Withdrawn()))

    assert calls(found.lines) == []


def test_a_call_whose_worker_ended_has_no_duration_and_is_made_again() -> None:
    found = past(ORDER, (1000, Started(900_000)), (5000, Resumed()))

    assert calls(found.lines) == [("reserve", "do", 1, None, "unknown"), ("reserve", "do", 1, None, "in flight")]


def test_a_verb_is_told_with_its_person() -> None:
    events: list[Event] = [Started(900_000), Misconfigured("HTTP 404"), Retry("ann", 7), Due()]
    found = past(ORDER, *[(1000 + 10 * number, event) for number, event in enumerate(events)])

    assert [(line.event, line.by) for line in found.lines if line.by] == [("retry", "ann")]
    assert calls(found.lines)[-1] == ("reserve", "do", 1, None, "in flight")


def test_a_refusal_ends_an_instance_that_did_nothing() -> None:
    found = past(ORDER, (1000, Started(900_000)), (1010, Rejected("no stock", 0.0)))

    assert [line.event for line in found.lines] == ["started", CALL, "failed"]
    assert "no stock" in found.lines[-1].detail


def test_an_instance_nobody_took_up_has_no_past() -> None:
    found = history(ORDER, {}, [])

    assert (found.lines, found.changed_ms, in_work(ORDER, found.instance)) == ([], None, "")


def test_a_line_as_json_says_only_what_applies() -> None:
    assert Line(1000, "started").form() == {"at": "1970-01-01T00:00:01.000+00:00", "event": "started"}
    assert Line(1000, CALL, "reserve", False, 1, 0, "succeeded", result={"a": 1}).form() == {
        "at": "1970-01-01T00:00:01.000+00:00",
        "event": "call",
        "step": "reserve",
        "direction": "do",
        "attempt": 1,
        "outcome": "succeeded",
        "result": {"a": 1},
        "duration_ms": 0,
    }
