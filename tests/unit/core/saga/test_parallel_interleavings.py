"""Every interleaving, tried one by one, of what can happen to up to four steps with one parallel group.

Beside the machine stands a model that only sees calls and answers: which steps may have happened, in the order in which
their outcome was settled, and which undos were called. Instances that differ in texts and times only are tried once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from marty_msf.core.saga import verbs
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Broken,
    Cancel,
    Due,
    Event,
    Failed,
    Misconfigured,
    Pause,
    Rejected,
    Resume,
    Resumed,
    Retry,
    SkipStep,
    Started,
    Succeeded,
    Withdrawn,
)
from marty_msf.core.saga.instance import LIVE, Call, Commands, Instance, State, Wait, in_flight
from marty_msf.core.saga.machine import advance
from marty_msf.core.saga.stages import standing
from tests.unit.core.saga.definitions import definition

DEADLINE_MS = 1000
UNDONE = {State.COMPENSATED, State.FAILED, State.CANCELLED}
A, B = {"name": "a", "group": "g", "compensation": "undo"}, {"name": "b", "group": "g", "compensation": "undo"}
PLANS = {
    "two at once": definition(A, B),
    "one of two has no undo": definition({"name": "a", "group": "g"}, B),
    "one at a time": definition(A, B, max_parallel_steps=1),
    "a step before": definition({"name": "first", "compensation": "undo"}, A, B),
    "a pivot behind": definition(A, B, {"name": "pivot", "pivot": True}, {"name": "last"}),
    "a pivot with an undo": definition(A, B, {"name": "pivot", "pivot": True, "compensation": "undo"}),
    "three, two at a time": definition(A, B, {"name": "c", "group": "g", "compensation": "undo"}, max_parallel_steps=2),
    "one after the other": definition(
        {"name": "first", "compensation": "undo"}, {"name": "pivot", "pivot": True}, {"name": "last"}
    ),
}
WHO = {"services only": False, "with people": True}


@dataclass(frozen=True)
class World:
    """What the services and people saw."""

    #: Steps that may have happened, in the order in which that was settled; those settled at once stand together.
    settled: tuple[frozenset[int], ...] = ()
    #: Steps whose open calls may have had their effect.
    doubted: frozenset[int] = frozenset()
    undone: tuple[int, ...] = ()


def happenings(plan: Definition, instance: Instance, *, people: bool) -> Iterator[Event]:
    """Everything that can happen next."""
    for it in instance.operations if instance.state in LIVE else ():
        if it.until_ms is not None:
            yield Due(it.step)
            continue
        yield from (Succeeded({}, it.step), Failed("lost", True, 0, None, it.step))
        if not it.undo:
            yield from (Failed("not sent", False, 0, None, it.step), Rejected("no", 0, it.step))
            yield from (Resumed(it.step), Withdrawn(it.step), Misconfigured("404", it.step))
    if people:
        yield from (Cancel("ann"), Pause("ann"), Resume("ann"), Retry("ann"))
        yield from (SkipStep("ann", it.step) for it in instance.operations)
        yield Broken("a bug")


def seen(plan: Definition, world: World, before: Instance, event: Event, after: Instance, commands: Commands) -> World:
    """The world after the event; asserts what must hold at every moment."""
    gone = {it.step for it in before.operations if not it.undo} - {it.step for it in after.operations if not it.undo}
    doubted = set(world.doubted)
    if (isinstance(event, Failed) and event.unknown) or isinstance(event, Resumed):
        doubted.add(event.step if event.step is not None else -1)
    if before.state is State.PARKED:
        doubted |= {it.step for it in before.operations if it.until_ms is None}
    # First the step whose success this is, then those at rest that are given up with it.
    done = {it for it in gone if isinstance(event, Succeeded) and it == event.step}
    news = [frozenset(it for it in those if plan.steps[it].compensation) for those in (done, (gone & doubted) - done)]
    undos = [it.step for it in commands if isinstance(it, Call) and it.undo]
    if undos:
        assert len(undos) == 1
        assert not [it for it in after.operations if it.step != undos[0]], "an undo began while a sibling was open"
        assert not after.beyond_pivot
    undone = world.undone
    if undos and undone[-1:] != (undos[0],):
        undone = (*undone, undos[0])
    settled = (*world.settled, *(those for those in news if those))
    return World(settled, frozenset(doubted - gone), undone)


def check_end(plan: Definition, instance: Instance, world: World) -> None:
    if instance.state is State.COMPLETED:
        assert not world.undone
        assert not instance.operations
    if instance.beyond_pivot:
        assert not world.undone
        assert instance.state not in UNDONE
    if instance.state in UNDONE:
        left = list(world.undone)
        for together in reversed(world.settled):
            called, left = left[: len(together)], left[len(together) :]
            assert set(called) == together, (world, "undo is not the reverse of completion")
        assert not left


def key(instance: Instance, world: World) -> object:
    work = tuple((it.step, it.undo, it.calls, it.unknown, it.until_ms is None, it.anew) for it in instance.operations)
    flags = (instance.beyond_pivot, instance.back, instance.parking, instance.paused, instance.cancelled)
    past = tuple(it.step for it in instance.happened)
    return instance.state, past, work, flags, instance.stage, instance.todo, world


#: What people may do to three steps at once multiplies to seconds, and is the same as for two.
CASES = {f"{name}, {who}": (plan, people) for name, plan in PLANS.items() for who, people in WHO.items()}
del CASES["three, two at a time, with people"]


@pytest.mark.parametrize(("plan", "people"), CASES.values(), ids=CASES)
def test_undo_is_the_exact_reverse_of_what_may_have_happened_in_every_interleaving(
    plan: Definition, people: bool
) -> None:
    begun, commands = advance(plan, Instance({}), Started(DEADLINE_MS), 0)
    todo = [(begun, seen(plan, World(), begun, Started(DEADLINE_MS), begun, commands))]
    tried = {key(*todo[0])}
    ends = set()
    while todo:
        instance, world = todo.pop()
        for event in happenings(plan, instance, people=people):
            if isinstance(event, verbs.VERBS) and verbs.refusal(plan, instance, event, 0) is not None:
                continue
            if isinstance(event, Broken) and instance.state not in LIVE:
                continue
            for now_ms in (0, DEADLINE_MS) if isinstance(event, Due | Succeeded) else (0,):
                after, commands = advance(plan, replace(instance), event, now_ms)
                now = seen(plan, world, instance, event, after, commands)
                if after.state not in LIVE:
                    check_end(plan, after, now)
                    ends.add(after.state)
                else:
                    assert in_flight(after) or after.paused or standing(plan, after), "nothing will ever happen to it"
                if (it := key(after, now)) not in tried:
                    tried.add(it)
                    todo.append((after, now))
    assert {State.COMPLETED, State.PARKED} <= ends
    assert ends & UNDONE


def test_waits_and_calls_name_their_step() -> None:
    plan = PLANS["two at once"]
    instance, commands = advance(plan, Instance({}), Started(DEADLINE_MS), 0)
    assert [it.step for it in commands if isinstance(it, Call)] == [0, 1]

    _, (wait,) = advance(plan, instance, Failed("x", True, 0.5, None, 1), 0)
    assert wait == Wait(100, 1)
