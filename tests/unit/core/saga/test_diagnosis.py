"""What an instance waits for, and since when it stands still."""

from dataclasses import replace

import pytest

from marty_msf.core.saga.calling import Breaker
from marty_msf.core.saga.definition import Definition, Lock
from marty_msf.core.saga.diagnosis import Around, Cause, cause, diagnosis, progressed, stuck
from marty_msf.core.saga.events import (
    Cancel,
    Due,
    EditContext,
    Event,
    Failed,
    Pause,
    Resume,
    Resumed,
    Started,
    Succeeded,
    Unusable,
)
from marty_msf.core.saga.instance import Instance
from marty_msf.core.saga.journal import encode, fold
from marty_msf.core.saga.machine import advance
from tests.unit.core.saga.definitions import ORDER, definition

#: 2025-01-01 00:00:00 UTC
AT = 1_735_689_600_000
LATE = Started(AT + 900_000)
FAILED = Failed("HTTP 503", False, 0.0)
PAIR = definition({"name": "check", "group": "checks"}, {"name": "reserve", "group": "checks"}, {"name": "confirm"})
GUARDED = replace(ORDER, steps=tuple(replace(step, breaker=Breaker(3, 60)) for step in ORDER.steps))
LOCKED = replace(ORDER, lock=Lock((), 60, False))
OPEN = Around(breakers={"reserve-service": "HTTP 503"})


def after(of: Definition, *events: Event) -> Instance:
    instance = Instance({})
    for number, event in enumerate(events):
        instance, _ = advance(of, instance, event, AT + 1000 * number)
    return instance


@pytest.mark.parametrize(
    ("of", "events", "around", "expected", "says"),
    [
        (ORDER, (), Around(), Cause.PENDING, "no worker took it up"),
        (ORDER, (LATE,), Around(), Cause.REPLY, "reserve: reply of reserve-service missing (call 1)"),
        (
            ORDER,
            (LATE,),
            Around(called_ms={0: AT}),
            Cause.REPLY,
            "reserve: reply of reserve-service missing since 2025-01-01 00:00:00 UTC (call 1)",
        ),
        (
            ORDER,
            (LATE, FAILED),
            Around(),
            Cause.RETRY,
            "reserve: failed once: HTTP 503; next call at 2025-01-01 00:00:01 UTC",
        ),
        (GUARDED, (LATE,), OPEN, Cause.BREAKER, "reserve: breaker open on reserve-service (HTTP 503)"),
        # A step without a breaker is not held back by that of others.
        (ORDER, (LATE,), OPEN, Cause.REPLY, "reserve: reply of reserve-service missing (call 1)"),
        (LOCKED, (LATE,), Around(), Cause.LOCK, "waiting for its semantic lock, held by another instance"),
        (LOCKED, (LATE,), Around(lock_holder="018f-1"), Cause.LOCK, "waiting for its semantic lock, held by 018f-1"),
        (
            PAIR,
            (LATE, replace(FAILED, step=1)),
            Around(),
            Cause.REPLY,
            "check: reply of check-service missing (call 1); reserve: failed once: HTTP 503; next call at 2025-01-01 00",
        ),
        (ORDER, (LATE, Pause("ann")), Around(), None, ""),
        (ORDER, (LATE, Unusable("too large")), Around(), None, ""),
        (ORDER, (LATE, Succeeded({}), Succeeded({}), Succeeded({})), Around(), None, ""),
    ],
)
def test_a_diagnosis_says_what_is_waited_for(
    of: Definition, events: tuple[Event, ...], around: Around, expected: Cause | None, says: str
) -> None:
    instance = after(of, *events)

    assert cause(of, instance, around) is expected
    assert diagnosis(of, instance, around).startswith(says)
    assert bool(diagnosis(of, instance, around)) is (expected is not None)


@pytest.mark.parametrize(
    ("events", "last", "further"),
    [
        ((LATE,), Succeeded({}), True),
        ((LATE,), FAILED, False),
        ((LATE, FAILED), Due(), False),
        ((LATE,), Resumed(), False),
        ((LATE, Succeeded({})), Cancel("ann"), True),
        ((LATE,), Pause("ann"), True),
        ((LATE, Pause("ann")), Resume("ann"), True),
        ((LATE, Pause("ann")), EditContext("ann", {"a": 1}), True),
        ((LATE,), Unusable("too large"), True),
    ],
)
def test_progress_is_what_brings_an_instance_further(events: tuple[Event, ...], last: Event, further: bool) -> None:
    before = after(ORDER, *events)
    instance, _ = advance(ORDER, before, last, AT + 60_000)

    assert progressed(before, instance) is further


def test_the_journal_knows_the_last_progress_and_the_newest_call() -> None:
    events: list[Event] = [LATE, Succeeded({}), FAILED, Due()]
    folded = fold(ORDER, {}, [encode(event, AT + 1000 * at, b"{}") for at, event in enumerate(events)][:1])
    assert (folded.progress_ms, folded.called_ms) == (AT, {0: AT})

    entries = [encode(event, AT + 1000 * at, b"{}" if at < 2 else b"") for at, event in enumerate(events)]
    folded = fold(ORDER, {}, entries)
    assert folded.progress_ms == AT + 1000
    assert folded.called_ms[1] == AT + 3000


def test_only_live_instances_that_nobody_paused_are_stuck() -> None:
    waiting = after(ORDER, LATE)

    assert not stuck(AT, waiting, 600, AT + 599_999)
    assert stuck(AT, waiting, 600, AT + 600_000)
    assert not stuck(AT, after(ORDER, LATE, Pause("ann")), 600, AT + 900_000)
    assert not stuck(AT, after(ORDER, LATE, Unusable("too large")), 600, AT + 900_000)
