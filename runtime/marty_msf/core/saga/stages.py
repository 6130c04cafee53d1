"""What an instance begins next: the steps of a stage, the undo of one step, its semantic lock, or its end.

A stage is one step, or the adjacent steps of one parallel group. Its conditions are evaluated when it begins, on one
context; its results are merged into the context when all of it is done, in the order of the definition. When one of its
steps failed for good nothing new of it begins, calls in flight are awaited, and only then undo begins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from marty_msf.core.errors import ExpressionError
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.instance import (
    LIVE,
    RESERVED,
    Acquire,
    Call,
    Commands,
    End,
    Happened,
    Instance,
    Operation,
    State,
    Transition,
    Wait,
    in_flight,
    members_problem,
    size_problem,
)

ENDED: Final[Commands] = (End(),)
#: Of a semantic lock's key; an index entry of the database bounds it.
KEY_CHARACTERS: Final = 512


def go_on(definition: Definition, instance: Instance, now_ms: int) -> Transition:
    """Begin whatever may begin now; nothing may while calls have to be awaited or a person paused the instance."""
    if (instance.parking or instance.back) and in_flight(instance):
        return instance, ()
    if instance.parking:
        return replace(instance, state=State.PARKED, parking=False, paused_ms=None), ENDED
    if instance.paused_ms is not None:
        return instance, ()
    if instance.back and not instance.happened:
        return _undone(instance)
    if definition.lock is not None and not instance.locked:
        return (instance, ()) if instance.state is State.WAITING else acquire(definition, instance)
    if instance.back:
        return _backward(definition, instance)
    if instance.todo:
        return _fill(definition, instance, now_ms)
    if instance.operations:
        return instance, ()
    if not entered(definition, instance):
        return forward(definition, instance, instance.context, instance.happened, instance.stage, now_ms)
    instance = stage_over(definition, instance)
    if instance.parking:
        return go_on(definition, instance, now_ms)
    return forward(definition, instance, instance.context, instance.happened, instance.stage, now_ms)


def forward(
    definition: Definition,
    instance: Instance,
    context: Mapping[str, Any],
    happened: tuple[Happened, ...],
    stage: int,
    now_ms: int,
) -> Transition:
    """Begin the first stage from `stage` on in which a condition holds. Nothing may be in work."""
    beyond_pivot = instance.beyond_pivot
    stages, steps = definition.stages, definition.steps
    for number in range(stage, len(stages)):
        chosen = stages[number]
        if len(chosen) > 1 or steps[chosen[0]].condition is not None:
            try:
                chosen = _chosen(definition, chosen, context)
            except ExpressionError as error:
                here = _at(instance, context, happened, beyond_pivot, number, State.RUNNING, (), ())
                return park(definition, here, str(error), now_ms)
            # The steps behind a pivot have no undo, so its place counts, not whether it was called.
            beyond_pivot = beyond_pivot or any(steps[index].pivot for index in set(stages[number]).difference(chosen))
            if not chosen:
                continue
        if not beyond_pivot and now_ms >= instance.deadline_ms:
            here = _at(instance, context, happened, beyond_pivot, number, State.RUNNING, (), ())
            return turn_back(definition, here, _too_late(definition, chosen[0]), now_ms)
        not_after_ms = None if beyond_pivot else instance.deadline_ms
        if len(chosen) == 1:
            index = chosen[0]
            operations: tuple[Operation, ...] = (Operation(index, False),)
            begun = _at(instance, context, happened, beyond_pivot, number, State.RUNNING, operations, ())
            return begun, (Call(index, False, steps[index].timeout_ms, not_after_ms, True),)
        first = chosen[: definition.max_parallel_steps]
        operations = tuple([Operation(index, False) for index in first])
        todo = chosen[len(first) :]
        begun = _at(instance, context, happened, beyond_pivot, number, State.RUNNING, operations, todo)
        return begun, tuple([Call(index, False, steps[index].timeout_ms, not_after_ms, True) for index in first])
    return _at(instance, context, happened, beyond_pivot, len(stages), State.COMPLETED, (), ()), ENDED


def merged(context: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """The context with a result's members, or as it was and why they cannot be kept."""
    if not result:
        return context, None
    after = {**context, **result}
    problem = members_problem(result) or size_problem(orjson.dumps(after))
    return (context, problem) if problem else (after, None)


def stage_over(definition: Definition, instance: Instance) -> Instance:
    """The stage in work is done: its results are merged. It is to park when they cannot be; what can be kept is kept."""
    first = definition.stages[instance.stage][0]
    done = sorted((it for it in instance.happened if it.step >= first), key=lambda it: it.step)
    members, problem = _united(definition, done)
    context, too_large = merged(instance.context, members)
    names = ", ".join(definition.steps[it.step].name for it in done)
    problems = [*([problem] if problem else []), *([f"{names} succeeded, but {too_large}"] if too_large else [])]
    over = replace(instance, context=context, stage=instance.stage + 1)
    return replace(over, parking=True, error=joined(over.error, "; ".join(problems))) if problems else over


def turn_back(definition: Definition, instance: Instance, error: str, now_ms: int) -> Transition:
    """Nothing new begins but undos. What is at rest is settled now: it may have happened, or it did not."""
    settled = [it for it in instance.operations if it.until_ms is not None and not it.undo]
    for it in settled:
        if it.unknown and final(definition, it):
            cause = joined(error, f"the pivot {definition.steps[it.step].name} may have happened and cannot be undone")
            return park(definition, instance, cause, now_ms)
    doubted = [Happened(it.step, None) for it in settled if it.unknown]
    turned = replace(
        instance,
        operations=tuple(it for it in instance.operations if it not in settled),
        happened=(*instance.happened, *doubted),
        todo=(),
        back=True,
        error=joined(instance.error, error),
    )
    return go_on(definition, turned, now_ms)


def park(definition: Definition, instance: Instance, error: str, now_ms: int) -> Transition:
    """Park as soon as no call is in flight."""
    return go_on(definition, replace(instance, parking=True, error=joined(instance.error, error)), now_ms)


def acquire(definition: Definition, instance: Instance) -> Transition:
    """Wait for the semantic lock; before the pivot until the deadline at the latest."""
    lock = definition.lock
    assert lock is not None
    variables = {**instance.context, RESERVED: instance.context}
    keys: set[str] = set()
    for expression in lock.keys:
        try:
            key = expression.value(variables)
        except ExpressionError as error:
            return replace(instance, state=State.PARKED, error=joined(instance.error, str(error))), ENDED
        if isinstance(key, bool) or not isinstance(key, str | int):
            problem = f"{expression.path}: {expression.source!r} gave {key!r}: let it give text or an integer"
            return replace(instance, state=State.PARKED, error=joined(instance.error, problem)), ENDED
        text = str(key)
        if not 1 <= len(text) <= KEY_CHARACTERS or "\0" in text:
            problem = f"{expression.path}: gave {len(text)} characters or a NUL: let it give 1 to {KEY_CHARACTERS}"
            return replace(instance, state=State.PARKED, error=joined(instance.error, problem)), ENDED
        keys.add(text)
    # Who has something to undo cannot be sent away.
    asked = Acquire(tuple(sorted(keys)), lock.reject and not instance.happened)
    waiting = replace(instance, state=State.WAITING)
    if instance.beyond_pivot or instance.back:
        return waiting, (asked,)
    return waiting, (asked, Wait(instance.deadline_ms))


def standing(definition: Definition, instance: Instance) -> Commands:
    """The commands an instance still waits for, calls in flight excepted: for a new owner, or after a pause."""
    if instance.paused_ms is not None or instance.state not in LIVE or instance.closing:
        return ()
    if instance.state is State.WAITING:
        return acquire(definition, instance)[1]
    return tuple([Wait(it.until_ms, it.step) for it in instance.operations if it.until_ms is not None])


def called(definition: Definition, instance: Instance, operation: Operation) -> Transition:
    """Call an operation again, or for the first time under a new key."""
    calling = replace(operation, calls=operation.calls + 1, until_ms=None, anew=False)
    not_after_ms = None if operation.undo or instance.beyond_pivot else instance.deadline_ms
    timeout_ms = definition.steps[operation.step].timeout_ms
    call = Call(operation.step, operation.undo, timeout_ms, not_after_ms, operation.anew, operation.number)
    return with_operation(instance, calling), (call,)


def final(definition: Definition, operation: Operation) -> bool:
    """Whether the operation does the pivot, and the pivot cannot be undone."""
    step = definition.steps[operation.step]
    return step.pivot and step.compensation is None and not operation.undo


def operation_name(definition: Definition, operation: Operation) -> str:
    """`charge`, or `undo of charge`."""
    name = definition.steps[operation.step].name
    return f"undo of {name}" if operation.undo else name


def with_operation(instance: Instance, operation: Operation) -> Instance:
    """The instance with another version of one of its operations."""
    others = instance.operations
    if len(others) == 1:
        return replace(instance, operations=(operation,))
    return replace(instance, operations=tuple(operation if it.step == operation.step else it for it in others))


def joined(error: str, more: str) -> str:
    """Errors in the order in which they came, none twice."""
    if not more or more in error:
        return error
    return f"{error}; {more}" if error else more


def _at(
    instance: Instance,
    context: Mapping[str, Any],
    happened: tuple[Happened, ...],
    beyond_pivot: bool,
    stage: int,
    state: State,
    operations: tuple[Operation, ...],
    todo: tuple[int, ...],
) -> Instance:
    """An instance that goes forward. Spelled out, because it is the path of every step and `replace` costs more."""
    return Instance(
        context,
        state,
        happened,
        beyond_pivot,
        instance.deadline_ms,
        operations,
        instance.error,
        stage,
        todo,
        False,
        False,
        instance.paused_ms,
        False,
        instance.locked,
    )


def _chosen(definition: Definition, members: Sequence[int], context: Mapping[str, Any]) -> tuple[int, ...]:
    """Members of a stage whose conditions hold. Raises ExpressionError."""
    steps = definition.steps
    variables = {**context, RESERVED: context}
    return tuple(
        [index for index in members if (condition := steps[index].condition) is None or condition.holds(variables)]
    )


def entered(definition: Definition, instance: Instance) -> bool:
    """Whether the stage whose results are not in the context yet was begun; a stage that could not begin was not."""
    happened = instance.happened
    if not happened or instance.stage >= len(definition.stages):
        return False
    first = definition.stages[instance.stage][0]
    return any(it.step >= first for it in happened)


def _united(definition: Definition, done: Sequence[Happened]) -> tuple[dict[str, Any], str | None]:
    """Members of all results; a member to which two steps gave different values is left out, and named."""
    members: dict[str, Any] = {}
    writers: dict[str, int] = {}
    conflicts: dict[str, tuple[int, int]] = {}
    for it in done:
        for name, value in (it.result or {}).items():
            if name in members and _text(members[name]) != _text(value):
                conflicts[name] = (writers[name], it.step)
            members[name] = value
            writers[name] = it.step
    if not conflicts:
        return members, None
    steps = definition.steps
    told = "; ".join(
        f"steps {steps[one].name} and {steps[other].name} gave different values to {name!r}"
        for name, (one, other) in conflicts.items()
    )
    kept = {name: value for name, value in members.items() if name not in conflicts}
    return kept, f"{told}: set it with edit-context, then resume; let one of them use another name"


def _text(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _fill(definition: Definition, instance: Instance, now_ms: int) -> Transition:
    """Begin steps of the stage in work as far as `maxParallelSteps` leaves room."""
    room = definition.max_parallel_steps - len(instance.operations)
    if room <= 0:
        return instance, ()
    if not instance.beyond_pivot and now_ms >= instance.deadline_ms:
        return turn_back(definition, instance, _too_late(definition, instance.todo[0]), now_ms)
    begun = instance.todo[:room]
    operations = sorted((*instance.operations, *(Operation(index, False) for index in begun)), key=lambda it: it.step)
    not_after_ms = None if instance.beyond_pivot else instance.deadline_ms
    filled = replace(instance, operations=tuple(operations), todo=instance.todo[room:])
    return filled, tuple(Call(it, False, definition.steps[it].timeout_ms, not_after_ms, True) for it in begun)


def _backward(definition: Definition, instance: Instance) -> Transition:
    """Undo the newest step that may have happened and has a compensation."""
    if instance.operations:
        return instance, ()
    happened = instance.happened
    while happened and definition.steps[happened[-1].step].compensation is None:
        happened = happened[:-1]
    if not happened:
        return _undone(instance)
    newest = happened[-1].step
    undoing = replace(instance, state=State.COMPENSATING, happened=happened, operations=(Operation(newest, undo=True),))
    return undoing, (Call(newest, True, definition.steps[newest].timeout_ms, None, True),)


def _undone(instance: Instance) -> Transition:
    """Nothing is left to undo."""
    undone = bool(instance.happened) or instance.state is State.COMPENSATING
    state = State.CANCELLED if instance.cancelled else State.COMPENSATED if undone else State.FAILED
    return replace(instance, state=state, happened=(), operations=()), ENDED


def _too_late(definition: Definition, step: int) -> str:
    return f"the deadline passed before step {definition.steps[step].name!r} began"
