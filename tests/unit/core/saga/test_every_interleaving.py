"""Any interleaving of success, refusal, time-out, late effect, crash, hand-over and deadline, for up to four steps.

The world beside the machine is a model of the services: an effect may take place although the answer was lost, and an
effect of a call that timed out may take place late. What the model knows is compared with what the machine undid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Due,
    Event,
    Failed,
    Misconfigured,
    Rejected,
    Restarted,
    Resumed,
    Started,
    Succeeded,
    Withdrawn,
)
from marty_msf.core.saga.instance import LIVE, Call, Command, Instance, State, Wait
from marty_msf.core.saga.journal import encode, fold, frozen
from marty_msf.core.saga.machine import advance, idempotency_key
from marty_msf.core.saga.stages import standing
from tests.unit.core.saga.definitions import definition

TROUBLE = ["refused", "timeout_done", "timeout_late", "timeout_never", "not_sent", "misconfigured"]
ANSWERS = st.sampled_from(["success"] * 5 + TROUBLE + ["timeout_done"] * 2)
#: Undos mostly succeed: what is asserted most is the order of all of them.
UNDO_ANSWERS = st.sampled_from(["success"] * 12 + TROUBLE)
OWNERS = st.sampled_from(["stays"] * 9 + ["crashes_before", "crashes_after", "withdraws"])


@dataclass
class World:
    """What the services did, by step."""

    done: set[int] = field(default_factory=set)
    undone: list[int] = field(default_factory=list)
    may_have_happened: list[int] = field(default_factory=list)
    keys: dict[tuple[int, bool], set[str]] = field(default_factory=dict)
    bodies: dict[tuple[int, bool], set[bytes]] = field(default_factory=dict)


@cache
def made(kinds: tuple[tuple[bool, str | None], ...], pivot: int, timeout_seconds: int) -> Definition:
    return definition(
        *(
            {
                "name": f"step{index}",
                "pivot": index == pivot,
                "compensation": "undo" if undo and index <= pivot else None,
                "condition": condition if index else None,
            }
            for index, (undo, condition) in enumerate(kinds)
        ),
        timeout_seconds=timeout_seconds,
    )


STEP = st.tuples(
    st.sampled_from([True, True, True, False]), st.sampled_from([None, None, "missing.name", "step0 == 1"])
)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    kinds = draw(st.lists(STEP, min_size=1, max_size=4))
    return made(
        tuple(kinds), draw(st.sampled_from([len(kinds), *range(len(kinds))])), draw(st.sampled_from([300, 300, 1]))
    )


class Player:
    """Drives one instance the way the engine does, keeping its journal."""

    def __init__(self, plan: Definition, data: st.DataObject) -> None:
        self.plan = plan
        self.data = data
        self.world = World()
        self.now_ms = 1000
        self.journal: list[bytes] = []
        self.bodies: Mapping[int, bytes] = {}
        self.instance = Instance({"order": 1})
        self.command: Command = self.apply(Started(1000 + plan.timeout_ms))

    def apply(self, event: Event) -> Command:
        self.instance, commands = advance(self.plan, self.instance, event, self.now_ms)
        (self.command,) = commands
        lines, self.bodies = frozen(self.plan, self.instance, commands, "saga", self.bodies)
        self.journal.append(encode(event, self.now_ms, lines))
        return self.command

    def recover(self) -> None:
        """What a new owner reads is exactly what the former one had in memory."""
        folded = fold(self.plan, {"order": 1}, self.journal)
        assert (folded.instance, folded.bodies) == (self.instance, self.bodies)
        if isinstance(self.command, Wait):
            assert standing(self.plan, folded.instance) == (self.command,)

    def step(self) -> None:
        self.now_ms += self.data.draw(st.sampled_from([0, 1, 150, 900]))
        match self.command:
            case Wait(until_ms):
                self.now_ms = max(self.now_ms, until_ms)
                self.apply(Due())
            case Call() as call:
                self.call(call)

    def call(self, call: Call) -> None:
        self.recover()
        match self.data.draw(OWNERS):
            case "crashes_before":
                self.doubt(call)
                self.apply(Resumed())
                return
            case "withdraws" if self.data.draw(st.booleans()):
                self.apply(Withdrawn())
                return
            case "crashes_after":
                self.effect(call)
                self.doubt(call)
                self.apply(Restarted() if self.data.draw(st.booleans()) else Resumed())
                return
        self.apply(self.answer(call))

    def effect(self, call: Call) -> None:
        operation = (call.step, call.undo)
        self.world.keys.setdefault(operation, set()).add(idempotency_key(self.plan, "saga", call))
        self.world.bodies.setdefault(operation, set()).add(self.bodies[call.step])
        if call.undo:
            if call.step not in self.world.undone:
                self.world.undone.append(call.step)
        else:
            self.world.done.add(call.step)

    def doubt(self, call: Call) -> None:
        if not call.undo and call.step not in self.world.may_have_happened:
            self.world.may_have_happened.append(call.step)

    def answer(self, call: Call) -> Event:
        random = 0.5
        match self.data.draw(UNDO_ANSWERS if call.undo else ANSWERS):
            case "success":
                self.effect(call)
                self.doubt(call)
                return Succeeded({f"step{call.step}": 1})
            case "timeout_done":
                self.effect(call)
                self.doubt(call)
                return Failed("timed out", True, random)
            case "timeout_late" | "timeout_never":
                self.doubt(call)
                return Failed("timed out", True, random)
            case "not_sent":
                return Failed("connection refused", False, random)
            case "misconfigured":
                return Misconfigured("HTTP 404")
            case _:
                return Rejected("HTTP 422", random)


@settings(max_examples=250, deadline=None)
@given(plan=definitions(), data=st.data())
def test_an_instance_ends_and_undoes_exactly_what_may_have_happened_in_reverse(
    plan: Definition, data: st.DataObject
) -> None:
    player = Player(plan, data)
    for _ in range(400):
        if player.instance.state not in LIVE:
            break
        player.step()
    player.recover()

    instance, world = player.instance, player.world
    pivot = next((index for index, step in enumerate(plan.steps) if step.pivot), len(plan.steps))
    assert instance.state in {State.COMPLETED, State.COMPENSATED, State.FAILED, State.PARKED}
    assert all(len(keys) == 1 for keys in world.keys.values())
    assert all(len(bodies) == 1 for bodies in world.bodies.values())
    if instance.state is State.COMPLETED:
        assert world.undone == []
    if instance.beyond_pivot:
        assert world.undone == []
        assert instance.state not in {State.COMPENSATED, State.FAILED}
    if instance.state in {State.COMPENSATED, State.FAILED}:
        expected = [s for s in reversed(world.may_have_happened) if plan.steps[s].compensation]
        undone_or_answered = [step for step in world.undone if step in expected]
        assert undone_or_answered == world.undone
        undos = [key for key in world.keys if key[1]]
        assert [step for step, _ in undos] == expected
        assert not [s for s in world.done if s > pivot]


@settings(max_examples=50)
@given(plan=definitions())
def test_without_trouble_every_instance_completes(plan: Definition) -> None:
    instance, commands = advance(plan, Instance({}), Started(10_000_000), 0)
    for _ in range(len(plan.steps)):
        if isinstance(commands[0], Call):
            instance, commands = advance(plan, instance, Succeeded({}), 0)
    assert instance.state is State.COMPLETED
