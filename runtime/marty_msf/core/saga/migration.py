"""Moving an instance to another revision of its definition, by a map from the steps it knows to the new ones.

An instance moves only while no call of it is in flight and nobody begins one: parked, or paused and at rest. Steps that
keep their name need no entry in the map. What cannot be moved without losing an undo, doing a step twice or leaving one
out is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final, NoReturn

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.instance import Happened, Instance, Operation, State, in_flight
from marty_msf.core.saga.stages import entered, stage_over

_PATH: Final = "map"


def moved(old: Definition, new: Definition, instance: Instance, names: Mapping[str, str]) -> Instance:
    """The instance as the new definition sees it. `names` maps steps by name. Raises InvalidDefinition."""
    _check_rest(instance)
    instance = _stage_done(old, instance)
    steps = _steps(old, new, names)
    first = old.stages[instance.stage][0] if instance.stage < len(old.stages) else len(old.steps)
    happened = tuple(_happened(old, new, steps, instance, it) for it in instance.happened if _counts(steps, it))
    _check_undo(old, new, steps, instance)
    operations = tuple(_operation(old, new, steps, it) for it in instance.operations)
    stage = 0
    if not instance.back:
        if any(it.step >= first for it in instance.happened) or instance.todo or len(operations) > 1:
            _refuse("it is in the middle of a parallel group", "let the group end first: resume it, and pause it later")
        stage = _stage(new, operations, {steps[index] for index in range(first) if index in steps})
        _check_pivot(new, instance, stage)
    state = instance.state
    if state is State.WAITING and new.lock is None:
        state = State.COMPENSATING if any(it.undo for it in operations) else State.RUNNING
    return replace(instance, state=state, happened=happened, operations=operations, stage=stage)


def parsed(text: str) -> Mapping[str, str]:
    """`old=new,other=another` as a map. Raises InvalidDefinition."""
    names: dict[str, str] = {}
    for part in filter(None, (it.strip() for it in text.split(","))):
        name, sign, target = part.partition("=")
        if not (name and sign and target) or name in names:
            _refuse(
                f"{part!r} is no `old=new`, or the second one of its step",
                "give each step once: reserve=hold,pay=charge",
            )
        names[name] = target
    return names


def carried(
    old: Definition, new: Definition, names: Mapping[str, str], bodies: Mapping[int, bytes]
) -> dict[int, bytes]:
    """Request bodies of the work of an instance that moves, under the new steps."""
    steps = _steps(old, new, names)
    return {steps[step]: body for step, body in bodies.items()}


def form(instance: Instance) -> Mapping[str, Any]:
    """The instance as JSON values, for the journal."""
    return asdict(instance)


def restored(values: Mapping[str, Any]) -> Instance:
    """The inverse of `form`; what a later version adds to instances has its default."""
    return Instance(
        **{
            **values,
            "state": State(values["state"]),
            "happened": tuple(Happened(**it) for it in values["happened"]),
            "operations": tuple(Operation(**it) for it in values["operations"]),
            "todo": tuple(values["todo"]),
        }
    )


def _stage_done(old: Definition, instance: Instance) -> Instance:
    """Results that a pause kept from being merged are merged, so that the instance stands between two stages."""
    if instance.back or instance.operations or instance.todo or not entered(old, instance):
        return instance
    over = stage_over(old, instance)
    if over.parking:
        _refuse(over.error, "resume it, and help it where it parks")
    return over


def _check_rest(instance: Instance) -> None:
    resting = instance.state is State.PARKED or (instance.paused and instance.state is not State.PENDING)
    if not resting or in_flight(instance):
        _refuse(
            f"the instance is {instance.state.value} and may have calls in flight",
            "pause it and wait until its calls have ended",
        )


def _steps(old: Definition, new: Definition, names: Mapping[str, str]) -> Mapping[int, int]:
    """Which new step each old one became; those that are gone are left out."""
    of_old = {step.name: index for index, step in enumerate(old.steps)}
    of_new = {step.name: index for index, step in enumerate(new.steps)}
    for name, target in names.items():
        if name not in of_old:
            _refuse(f"{name!r} is no step of revision {old.revision}", f"its steps are {_listed(of_old)}")
        if target not in of_new:
            _refuse(f"{target!r} is no step of revision {new.revision}", f"its steps are {_listed(of_new)}")
    targets = {name: names.get(name, name) for name in of_old}
    steps = {index: of_new[targets[name]] for name, index in of_old.items() if targets[name] in of_new}
    twice = {target for target in steps.values() if list(steps.values()).count(target) > 1}
    if twice:
        _refuse(f"two steps become {_listed(new.steps[it].name for it in twice)}", "map each to a step of its own")
    return steps


def _counts(steps: Mapping[int, int], it: Happened) -> bool:
    """Whether what happened is still known; `_check_undo` refuses where that would lose an undo."""
    return it.step in steps


def _happened(old: Definition, new: Definition, steps: Mapping[int, int], instance: Instance, it: Happened) -> Happened:
    before, after = old.steps[it.step], new.steps[steps[it.step]]
    if not instance.beyond_pivot and before.compensation is not None and after.compensation is None:
        _refuse(f"{before.name} may have happened, and {after.name} has no compensation", "give it one")
    return Happened(steps[it.step], it.result)


def _check_undo(old: Definition, new: Definition, steps: Mapping[int, int], instance: Instance) -> None:
    """Nothing that may have to be undone is forgotten."""
    for it in instance.happened:
        step = old.steps[it.step]
        if it.step not in steps and step.compensation is not None and not instance.beyond_pivot:
            _refuse(
                f"{step.name} may have happened and is no step of revision {new.revision}: its undo would be lost",
                f"map it: {step.name}=…",
            )


def _operation(old: Definition, new: Definition, steps: Mapping[int, int], it: Operation) -> Operation:
    step = old.steps[it.step]
    target = new.steps[steps[it.step]] if it.step in steps else None
    if target is None or target.name != step.name:
        _refuse(
            f"{step.name} is in work, and its idempotency key has its name",
            "keep the step under its name, or end it first (retry, resume, skip-step)",
        )
    if it.undo and target.compensation is None:
        _refuse(f"{step.name} is being undone and has no compensation any more", "give it one")
    return replace(it, step=steps[it.step])


def _stage(new: Definition, operations: tuple[Operation, ...], passed: set[int]) -> int:
    """The first stage that is not behind the instance."""
    if operations:
        stage = next(number for number, members in enumerate(new.stages) if operations[0].step in members)
    else:
        stage = next(
            (number for number, members in enumerate(new.stages) if not passed & set(members)), len(new.stages)
        )
    if operations and len(new.stages[stage]) > 1:
        name = new.steps[operations[0].step].name
        _refuse(f"{name} is in work and would be one of a parallel group", "end it first (retry, resume, skip-step)")
    before = {index for members in new.stages[:stage] for index in members}
    if left_out := before - passed:
        _refuse(
            f"{_listed(new.steps[it].name for it in sorted(left_out))} would never be done: the instance is past that place",
            "put such steps behind where the instance is, or map a step that was done to them",
        )
    if again := passed - before:
        _refuse(
            f"{_listed(new.steps[it].name for it in sorted(again))} would be done again: the instance was there already",
            "put such steps before where the instance is",
        )
    return stage


def _check_pivot(new: Definition, instance: Instance, stage: int) -> None:
    pivots = [number for number, members in enumerate(new.stages) if any(new.steps[it].pivot for it in members)]
    if instance.beyond_pivot and any(number >= stage for number in pivots):
        _refuse("the instance is beyond its pivot, and the new one is still before it", "put the pivot earlier")
    if not instance.beyond_pivot and any(number < stage for number in pivots):
        _refuse("the instance is before its pivot, and the new one lies behind it", "put the pivot later")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise InvalidDefinition(_PATH, problem, remedy)
