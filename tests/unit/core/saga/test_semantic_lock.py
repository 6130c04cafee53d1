"""When an instance asks for its semantic lock, what it does without, and who may take it away."""

from typing import Any

import pytest

from marty_msf.core.saga import asked, verbs
from marty_msf.core.saga.definition import Definition, load, stored_form
from marty_msf.core.saga.events import (
    Broken,
    Cancel,
    Due,
    EditContext,
    Event,
    Failed,
    Locked,
    LockLost,
    LockRefused,
    Misconfigured,
    Pause,
    Rejected,
    Resume,
    Started,
    Succeeded,
    Unlock,
)
from marty_msf.core.saga.history import history
from marty_msf.core.saga.instance import Acquire, Call, Command, End, Instance, State, Wait
from marty_msf.core.saga.journal import encode
from marty_msf.core.saga.machine import advance
from marty_msf.core.saga.migration import moved
from marty_msf.core.saga.stages import KEY_CHARACTERS, standing
from tests.unit.core.saga.definitions import spec

STEPS: tuple[dict[str, Any], ...] = ({"name": "reserve", "compensation": "release"}, {"name": "charge"})
START = Started(300_000)
NO = Rejected("HTTP 402", 0.5)


def locking(**lock: Any) -> Definition:
    return load(stored_form(spec(*STEPS, semanticLock={"key": "'order:' + context.order", **lock})))


PLAIN = load(stored_form(spec(*STEPS)))


def play(plan: Definition, *events: Event, now_ms: int = 1000, **context: Any) -> tuple[Instance, list[Command]]:
    instance, commands = Instance({"order": "7", **context}), list[Command]()
    for event in (START, *events):
        instance, more = advance(plan, instance, event, now_ms)
        commands += more
    return instance, commands


def test_the_spec_becomes_the_lock() -> None:
    several = load(stored_form(spec(*STEPS, semanticLock={"keys": ["context.a", "context.b"], "onConflict": "Reject"})))

    assert several.lock is not None
    assert [(it.source, it.path) for it in several.lock.keys] == [
        ("context.a", "spec.semanticLock.keys[0]"),
        ("context.b", "spec.semanticLock.keys[1]"),
    ]
    assert (several.lock.lease_seconds, several.lock.reject) == (600, True)
    assert len({several.revision, locking().revision, PLAIN.revision}) == 3


def test_nothing_is_called_before_the_lock_is_held() -> None:
    instance, commands = play(locking())

    assert (instance.state, instance.operations) == (State.WAITING, ())
    assert commands == [Acquire(("order:7",), False), Wait(300_000)]
    held, more = advance(locking(), instance, Locked(), 2000)
    assert (held.state, held.locked) == (State.RUNNING, True)
    assert [it.step for it in more if isinstance(it, Call)] == [0]


def test_several_keys_are_asked_for_in_one_order_and_once_each() -> None:
    plan = load(stored_form(spec(*STEPS, semanticLock={"keys": ["context.to", "context.of", "context.to", "7"]})))

    assert play(plan, to="b", of="a")[1][0] == Acquire(("7", "a", "b"), False)


@pytest.mark.parametrize("key", ["7.5", "true", "context.nobody", "''", f"'{'x' * (KEY_CHARACTERS + 1)}'", "1 / 0"])
def test_a_key_that_is_none_parks(key: str) -> None:
    instance, commands = play(load(stored_form(spec(*STEPS, semanticLock={"key": key}))))

    assert (instance.state, commands) == (State.PARKED, [End()])
    assert "spec.semanticLock.key" in instance.error


def test_a_refused_lock_ends_the_instance_before_anything_happened() -> None:
    instance, commands = play(locking(onConflict="Reject"), LockRefused("018f"))

    assert commands[0] == Acquire(("order:7",), True)
    assert (instance.state, instance.error) == (State.FAILED, "instance 018f holds its semantic lock")


def test_the_deadline_counts_while_it_waits() -> None:
    instance, _ = advance(locking(), play(locking())[0], Due(), 300_000)

    assert (instance.state, instance.error) == (State.FAILED, "the deadline passed before it got its semantic lock")


def test_a_cancelled_waiter_ends_at_once() -> None:
    assert play(locking(), Cancel("ann"))[0].state is State.CANCELLED


def test_a_parked_instance_goes_on_under_the_lock_it_kept() -> None:
    parked, _ = play(locking(), Locked(), Misconfigured("HTTP 404"))
    after, commands = advance(locking(), parked, Resume("ann"), 2000)

    assert (parked.state, parked.locked) == (State.PARKED, True)
    assert (after.state, [it for it in commands if isinstance(it, Acquire)]) == (State.RUNNING, [])


def test_a_lost_lock_parks_once_the_call_in_flight_has_ended_and_is_got_again_before_anything_else() -> None:
    lost = play(locking(), Locked(), LockLost("went away"))[0]
    assert (lost.state, lost.parking, lost.locked) == (State.RUNNING, True, False)
    parked, _ = advance(locking(), lost, Succeeded({}), 2000)
    assert (parked.state, parked.error) == (State.PARKED, "went away")
    after, commands_after = advance(locking(), parked, Resume("ann"), 3000)
    assert after.state is State.WAITING
    assert commands_after[0] == Acquire(("order:7",), False)
    held, again = advance(locking(), after, Locked(), 4000)
    assert [it.step for it in again if isinstance(it, Call)] == [1]
    assert held.operations[0].step == 1


def test_who_has_something_to_undo_cannot_be_sent_away() -> None:
    plan = locking(onConflict="Reject")
    parked = play(plan, Locked(), Succeeded({}), LockLost("went away"), NO)[0]

    assert parked.state is State.PARKED
    assert advance(plan, parked, Resume("ann"), 2000)[1][0] == Acquire(("order:7",), False)


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([], "pause it first"),
        ([Pause("ann")], "holds none"),
        ([Locked()], "pause it first"),
        ([Locked(), Pause("ann")], "a call of it is in flight"),
    ],
)
def test_a_lock_is_taken_only_from_who_is_at_rest(events: list[Event], says: str) -> None:
    instance, _ = play(locking(), *events)

    assert says in (verbs.refusal(locking(), instance, Unlock("bob"), 2000) or "")


def test_a_saga_without_a_lock_has_none_to_take() -> None:
    parked, _ = play(PLAIN, Misconfigured("HTTP 404"))

    assert "no semanticLock" in (verbs.refusal(PLAIN, parked, Unlock("bob"), 2000) or "")


@pytest.mark.parametrize("events", [[Misconfigured("HTTP 404")], [Pause("ann"), Failed("down", False, 0.5)]])
def test_an_unlocked_instance_waits_for_its_lock_before_it_goes_on(events: list[Event]) -> None:
    rests, _ = play(locking(), Locked(), *events)
    unlocked, commands = advance(locking(), rests, asked.event("unlock", {}, "bob", 5, locking()), 2000)

    assert (unlocked.locked, unlocked.state, commands) == (False, rests.state, ())
    assert standing(locking(), unlocked) == ()
    after, more = advance(locking(), unlocked, Resume("ann"), 3000)
    assert after.state is State.WAITING
    assert [type(it) for it in more] == [Acquire, Wait]
    assert advance(locking(), after, Locked(), 4000)[0].state is State.RUNNING


def test_an_instance_that_moves_to_a_definition_without_a_lock_does_not_wait_for_one() -> None:
    waiting, _ = play(locking(), Pause("ann"))

    assert moved(locking(), PLAIN, waiting, {}).state is State.RUNNING
    assert moved(locking(), locking(leaseSeconds=60), waiting, {}).state is State.WAITING


def test_a_fault_while_it_waits_parks_and_another_key_may_be_edited_in() -> None:
    parked, _ = play(locking(), Broken("a fault"))
    edited, _ = advance(locking(), parked, EditContext("ann", {"order": "8"}), 2000)

    assert advance(locking(), edited, Resume("ann"), 3000)[1][0] == Acquire(("order:8",), False)


def test_the_timeline_tells_of_the_lock() -> None:
    events: list[Event] = [START, Locked(), Misconfigured("HTTP 404"), Unlock("bob", 1)]

    lines = history(locking(), {"order": "7"}, [encode(event, 1000 + n) for n, event in enumerate(events)]).lines

    told = [(it.event, it.detail or it.by) for it in lines if it.event != "call"]
    assert told[:4] == [("started", ""), ("waiting", ""), ("locking", "order:7"), ("locked", "")]
    assert told[-1] == ("unlock", "bob")
