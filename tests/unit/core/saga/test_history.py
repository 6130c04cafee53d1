from collections.abc import Sequence

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Event,
    Resumed,
    Started,
    Withdrawn,
)
from marty_msf.core.saga.history import CALL, History, Line, history, in_work
from marty_msf.core.saga.instance import State
from marty_msf.core.saga.journal import encode
from tests.unit.core.saga.definitions import ORDER
from tests.unit.core.saga.test_journal import GOLDEN


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


def test_a_call_that_was_handed_back_leaves_no_line() -> None:
    found = past(ORDER, (1000, Started(900_000)), (1001, Withdrawn()))

    assert calls(found.lines) == []


def test_a_call_whose_worker_ended_has_no_duration_and_is_made_again() -> None:
    found = past(ORDER, (1000, Started(900_000)), (5000, Resumed()))

    assert calls(found.lines) == [("reserve", "do", 1, None, "unknown"), ("reserve", "do", 1, None, "in flight")]


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
