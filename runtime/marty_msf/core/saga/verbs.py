"""What people may ask of an instance, why not, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from marty_msf.core.errors import IllegalTransition
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Cancel, EditContext, Pause, Resume, Retry, SkipStep, Unlock, Verb
from marty_msf.core.saga.instance import (
    LIVE,
    Happened,
    Instance,
    Operation,
    State,
    Transition,
    context_problem,
    in_flight,
    members_problem,
)
from marty_msf.core.saga.own_data import own_data_problem
from marty_msf.core.saga.stages import final, go_on, operation_name, stage_over, standing, turn_back

VERBS: Final = (Cancel, Retry, SkipStep, Resume, EditContext, Pause, Unlock)


def refusal(definition: Definition, instance: Instance, verb: Verb, now_ms: int) -> str | None:  # noqa: ARG001
    """Why the verb is not possible now, with the remedy; None when it is."""
    if instance.state is State.PENDING:
        return "no worker took it up yet: ask again in a moment"
    if instance.state not in LIVE and instance.state is not State.PARKED:
        return f"it ended as {instance.state.value}: nothing is to be done, start another instance"
    match verb:
        case Cancel():
            return _no_cancel(definition, instance)
        case Pause():
            if instance.state is State.PARKED:
                return "it is parked, so nothing begins: retry, skip-step, resume or cancel it"
            return "it is paused already" if instance.paused else None
        case Resume():
            return None if _at_rest(instance) else "it is neither parked nor paused: it goes on by itself"
        case EditContext(_, patch):
            if not _at_rest(instance):
                return "it is neither parked nor paused, and steps read the context: pause it first"
            after = _patched(instance.context, patch)
            return members_problem(patch) or context_problem(after) or _lost_data(definition, instance.context, after)
        case Retry():
            return _not_stuck(instance)
        case SkipStep(_, step):
            return _not_stuck(instance) or _not_that(definition, instance, step)
        case Unlock():
            return _no_unlock(definition, instance)


def effect(definition: Definition, instance: Instance, verb: Verb, now_ms: int) -> str:
    """In one line what a verb that is not refused would do."""
    names = ", ".join(operation_name(definition, it) for it in instance.operations)
    match verb:
        case Cancel():
            undone = [definition.steps[it.step] for it in reversed(instance.happened)]
            undos = ", ".join(step.name for step in undone if step.compensation is not None)
            first = "waits for the calls in flight, then " if in_flight(instance) else ""
            return f"{first}undoes {undos}" if undos else f"{first}ends: nothing is to be undone so far"
        case Pause():
            return f"{names} ends, then nothing begins until resume" if names else "nothing begins until resume"
        case Resume() if instance.paused:
            return "goes on where it is paused"
        case Resume():
            return f"calls {names} again with the same idempotency key" if names else "goes on behind where it parked"
        case Unlock():
            return "gives its semantic lock to the next waiter, and waits for it again before it goes on"
        case Retry():
            return f"calls {names} as a new call: its idempotency key changes"
        case EditContext(_, patch):
            return (
                f"changes {', '.join(sorted(patch)) or 'nothing'}; calls that were begun keep their bytes until a retry"
            )
        case SkipStep(_, step):
            operation = instance.operation(step)
            assert operation is not None
            after = intervene(definition, instance, verb, now_ms)[0]
            return f"takes {operation_name(definition, operation)} for handled, then is {after.state.value}"


def intervene(definition: Definition, instance: Instance, verb: Verb, now_ms: int) -> Transition:
    """Apply a verb. Raises IllegalTransition, changing nothing, where `refusal` says why."""
    if problem := refusal(definition, instance, verb, now_ms):
        raise IllegalTransition(f"{verb!r}: {problem}")
    match verb:
        case Pause():
            return replace(instance, paused_ms=now_ms), ()
        case Unlock():
            return replace(instance, locked=False), ()
        case EditContext(_, patch):
            return replace(instance, context=_patched(instance.context, patch)), ()
        case Cancel(by):
            going = replace(_going(definition, instance, now_ms), cancelled=True)
            if going.back:
                return _on(definition, going, now_ms)
            return turn_back(definition, going, f"cancelled by {by}", now_ms)
        case Resume():
            return _on(definition, _going(definition, instance, now_ms), now_ms)
        case Retry():
            going = _going(definition, instance, now_ms)
            anew = tuple(replace(it, number=it.number + 1, anew=True) for it in going.operations)
            return _on(definition, replace(going, operations=anew), now_ms)
        case SkipStep(_, step):
            operation = instance.operation(step)
            assert operation is not None
            going = _going(definition, instance, now_ms)
            return _on(definition, _without(definition, going, operation), now_ms)


def _no_cancel(definition: Definition, instance: Instance) -> str | None:
    if instance.beyond_pivot:
        return "it is beyond its pivot, so nothing is undone any more: let it end (resume, retry or skip-step)"
    if instance.cancelled:
        return "it is being cancelled already: resume or retry it if it is parked"
    for it in instance.operations:
        if it.until_ms is not None and it.unknown and final(definition, it):
            name = definition.steps[it.step].name
            return f"the pivot {name} may have happened and cannot be undone: resume, retry or skip-step"
    return None


def _no_unlock(definition: Definition, instance: Instance) -> str | None:
    if definition.lock is None:
        return "its saga has no semanticLock: it holds none"
    if not _at_rest(instance):
        return "it may be at work under its lock: pause it first"
    if in_flight(instance):
        return "a call of it is in flight: ask again when it has ended"
    if instance.state is State.WAITING:
        return "it waits for its lock and holds none"
    return None


def _not_stuck(instance: Instance) -> str | None:
    if instance.state is not State.PARKED:
        return "it is not parked: only what is stuck can be retried or skipped"
    if not instance.operations:
        return "no call of it is stuck: correct what its error says (edit-context), then resume it"
    return None


def _not_that(definition: Definition, instance: Instance, step: int | None) -> str | None:
    stuck = ", ".join(definition.steps[it.step].name for it in instance.operations)
    if step is None and len(instance.operations) > 1:
        return f"several steps are stuck ({stuck}): say which one"
    if instance.operation(step) is None:
        return f"that step is not stuck: stuck is {stuck}"
    return None


def _at_rest(instance: Instance) -> bool:
    return instance.state is State.PARKED or instance.paused


def _going(definition: Definition, instance: Instance, now_ms: int) -> Instance:
    """Neither parked nor paused any more: a paused one with its times moved on, a parked one with a new budget."""
    if instance.paused_ms is not None:
        shift = now_ms - instance.paused_ms
        moved = tuple(
            it if it.until_ms is None else replace(it, until_ms=it.until_ms + shift) for it in instance.operations
        )
        return replace(instance, paused_ms=None, operations=moved, deadline_ms=instance.deadline_ms + shift)
    if instance.state is not State.PARKED:
        return instance
    # A call still in flight when the instance was parked has come to nothing: its outcome is unknown.
    fresh = tuple(
        replace(it, calls=0, resumed=0, until_ms=now_ms, unknown=it.unknown or it.until_ms is None)
        for it in instance.operations
    )
    # A pivot that may have happened and cannot be undone leaves only the way forward.
    back = instance.back and not any(it.unknown and final(definition, it) for it in fresh)
    return replace(
        instance,
        state=State.COMPENSATING if any(it.undo for it in fresh) else State.RUNNING,
        operations=fresh,
        parking=False,
        back=back,
        cancelled=instance.cancelled and back,
        deadline_ms=max(instance.deadline_ms, now_ms + definition.timeout_ms),
        error=instance.error if back else "",
    )


def _on(definition: Definition, instance: Instance, now_ms: int) -> Transition:
    """What begins now, and the waits that go on."""
    if instance.back:
        after, commands = turn_back(definition, instance, "", now_ms)
    else:
        after, commands = go_on(definition, instance, now_ms)
    if commands and after.state is State.WAITING:
        return after, commands
    return after, (*commands, *standing(definition, after))


def _without(definition: Definition, instance: Instance, operation: Operation) -> Instance:
    """A person handled the operation. A step whose outcome is unknown may have to be undone all the same."""
    others = tuple(it for it in instance.operations if it.step != operation.step)
    if operation.undo:
        return replace(instance, operations=others, happened=instance.happened[:-1])
    unknown = next(it.unknown for it in instance.operations if it.step == operation.step)
    beyond_pivot = instance.beyond_pivot or definition.steps[operation.step].pivot
    left = replace(
        instance,
        operations=others,
        happened=(*instance.happened, Happened(operation.step, None)) if unknown else instance.happened,
        beyond_pivot=beyond_pivot,
        back=instance.back and not beyond_pivot,
        cancelled=instance.cancelled and not beyond_pivot,
    )
    if left.back or others or instance.todo:
        return left
    return stage_over(definition, left)


def _lost_data(definition: Definition, before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    return own_data_problem(before, after) if any(step.own_data for step in definition.steps) else None


def _patched(value: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7396)."""
    after = dict(value)
    for name, change in patch.items():
        if change is None:
            after.pop(name, None)
        elif isinstance(change, Mapping):
            inner = after.get(name)
            after[name] = _patched(inner if isinstance(inner, Mapping) else {}, change)
        else:
            after[name] = change
    return after
