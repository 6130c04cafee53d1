"""The saga state machine: what an event makes of an instance. What begins next is decided in `stages`, a person's verbs
in `verbs`.

Rules it keeps:
1. A step whose outcome is unknown may have happened, so it is undone like one that succeeded.
2. Undo goes one by one, in the reverse of the order in which steps completed (their order in `Instance.happened`).
3. No undo begins while the outcome of a call is open.
4. Once the pivot succeeded (or was skipped) nothing is undone: later steps are retried, then the instance is parked.
5. Nothing is retried for ever: a budget that is used up leads to compensation or to Parked.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from marty_msf.core.errors import IllegalTransition
from marty_msf.core.retry import RetryPolicy, delay_ms
from marty_msf.core.saga.definition import Definition
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
    Migrated,
    Misconfigured,
    Pause,
    Rejected,
    Restarted,
    Resume,
    Resumed,
    Retry,
    SkipStep,
    Started,
    Succeeded,
    Unlock,
    Unusable,
    Withdrawn,
)
from marty_msf.core.saga.instance import LIVE, Call, Happened, Instance, Operation, State, Transition, Wait
from marty_msf.core.saga.migration import restored
from marty_msf.core.saga.own_data import parted
from marty_msf.core.saga.stages import (
    ENDED,
    called,
    final,
    forward,
    go_on,
    joined,
    merged,
    operation_name,
    park,
    standing,
    turn_back,
    with_operation,
)
from marty_msf.core.saga.verbs import intervene

#: New owners that may find one and the same call in flight before it is taken for what kills its workers.
RESUME_LIMIT: Final = 20


def advance(definition: Definition, instance: Instance, event: Event, now_ms: int) -> Transition:
    """Apply one event. The caller makes the event (and the bodies of first calls) durable before it obeys the commands.

    Raises IllegalTransition, changing nothing, when the event does not fit the instance.
    """
    if isinstance(event, Succeeded):  # the most frequent one by far
        return _succeeded(definition, instance, _called(instance, event, event.step), event.result, now_ms)
    match event:
        case Started(deadline_ms):
            return _started(definition, instance, deadline_ms, now_ms)
        case Due(step):
            return _due(definition, instance, step, now_ms)
        case Broken(error):
            if instance.state not in LIVE:
                raise IllegalTransition(f"{event!r} in {instance.state}: nothing is in work")
            fault = joined(instance.error, error)
            return replace(instance, state=State.PARKED, parking=False, paused_ms=None, error=fault), ENDED
        case Locked() | LockRefused() | LockLost():
            return _lock(definition, instance, event, now_ms)
        case Migrated(instance=values):
            moved = restored(values)
            return moved, standing(definition, moved)
        case Cancel() | Retry() | SkipStep() | Resume() | EditContext() | Pause() | Unlock():
            return intervene(definition, instance, event, now_ms)
        case _:
            return _answered(definition, instance, _called(instance, event, event.step), event, now_ms)


def request_body(definition: Definition, instance: Instance, saga_id: str, call: Call) -> bytes:
    """The body of a call that `instance` has in flight, as the call contract defines it."""
    step = definition.steps[call.step]
    context, data = instance.context, step.data
    if step.own_data:
        context, data = parted(step.name, context)
    body: dict[str, Any] = {"saga_id": saga_id, "step": step.name, "context": context, "data": data}
    if call.undo:
        body["result"] = instance.happened[-1].result
    return orjson.dumps(body)


def idempotency_key(definition: Definition, saga_id: str, call: Call) -> str:
    """The same for every call of one operation; the last part rises only by a person's verb."""
    return f"{saga_id}:{definition.steps[call.step].name}:{'undo' if call.undo else 'do'}:{call.number}"


def _called(instance: Instance, event: Event, step: int | None) -> Operation:
    """The operation whose call is in flight."""
    operation = instance.operation(step)
    if instance.state not in LIVE or operation is None:
        raise IllegalTransition(f"{event!r} in {instance.state}: nothing is in work")
    if operation.until_ms is not None:
        raise IllegalTransition(f"{event!r} while waiting")
    return operation


def _started(definition: Definition, instance: Instance, deadline_ms: int, now_ms: int) -> Transition:
    if instance.state is not State.PENDING:
        raise IllegalTransition(f"Started in {instance.state}: an instance starts once")
    begun = Instance(instance.context, State.RUNNING, deadline_ms=deadline_ms)
    if definition.lock is not None:
        return go_on(definition, begun, now_ms)
    return forward(definition, begun, begun.context, (), 0, now_ms)


def _answered(
    definition: Definition,
    instance: Instance,
    operation: Operation,
    event: Unusable | Rejected | Failed | Misconfigured | Resumed | Restarted | Withdrawn,
    now_ms: int,
) -> Transition:
    """What became of a call in flight, when it did not plainly succeed."""
    match event:
        case Failed(error, unknown, random, retry_after_ms):
            met = replace(operation, unknown=operation.unknown or unknown)
            return _retry(definition, instance, met, error, random, retry_after_ms, now_ms)
        case Rejected(error, random):
            return _rejected(definition, instance, operation, error, random, now_ms)
        case Resumed():
            met = replace(operation, resumed=operation.resumed + 1, unknown=True)
            return _resumed(definition, instance, met, now_ms)
        case Restarted():
            return _resumed(definition, instance, replace(operation, unknown=True), now_ms)
        case Withdrawn():
            return _at_rest(definition, instance, replace(operation, calls=operation.calls - 1), "", now_ms)
        case Misconfigured(error):
            cause = f"{operation_name(definition, operation)}: {error}"
            if instance.back and not operation.undo:
                return _settled(definition, instance, operation, cause, now_ms)
            return park(definition, _rested(instance, operation, now_ms), cause, now_ms)
        case Unusable() if operation.undo:
            return _succeeded(definition, instance, operation, {}, now_ms)
        case Unusable(error):
            kept = _completed(definition, instance, operation, {})
            return park(definition, kept, f"{operation_name(definition, operation)} succeeded, but {error}", now_ms)


def _succeeded(
    definition: Definition, instance: Instance, operation: Operation, result: Mapping[str, Any], now_ms: int
) -> Transition:
    if operation.undo:
        return go_on(definition, replace(instance, happened=instance.happened[:-1], operations=()), now_ms)
    if len(definition.stages[instance.stage]) == 1 and not (
        instance.back or instance.parking or instance.paused_ms is not None
    ):
        # The path of every step that stands alone.
        context, problem = merged(instance.context, result)
        if problem is None:
            passed = replace(instance, beyond_pivot=True) if definition.steps[operation.step].pivot else instance
            happened = (*instance.happened, Happened(operation.step, result))
            return forward(definition, passed, context, happened, instance.stage + 1, now_ms)
    return go_on(definition, _completed(definition, instance, operation, result), now_ms)


def _completed(definition: Definition, instance: Instance, operation: Operation, result: Mapping[str, Any]) -> Instance:
    """The step happened for certain. Beyond the pivot a cancellation came too late."""
    beyond_pivot = instance.beyond_pivot or definition.steps[operation.step].pivot
    back = instance.back and not beyond_pivot
    return replace(
        instance,
        operations=_others(instance, operation),
        happened=(*instance.happened, Happened(operation.step, result)),
        beyond_pivot=beyond_pivot,
        back=back,
        cancelled=instance.cancelled and back,
        error=instance.error if back or instance.parking else "",
    )


def _rejected(
    definition: Definition, instance: Instance, operation: Operation, error: str, random: float, now_ms: int
) -> Transition:
    if operation.undo or instance.beyond_pivot:
        return _retry(definition, instance, operation, error, random, None, now_ms)
    cause = f"{operation_name(definition, operation)} was refused: {error}"
    # An earlier call of unknown outcome may still take effect late. Its undo is harmless if it does not.
    refused = replace(
        operation, unknown=operation.unknown and definition.steps[operation.step].compensation is not None
    )
    return _settled(definition, instance, refused, cause, now_ms)


def _retry(
    definition: Definition,
    instance: Instance,
    operation: Operation,
    error: str,
    random: float,
    retry_after_ms: int | None,
    now_ms: int,
) -> Transition:
    """Wait for the next call, or give up when budget or time are used up, or nothing is called again."""
    policy = _policy(definition, operation)
    closing = instance.back and not operation.undo
    if closing or _overdue(instance, operation, now_ms) or not policy.allows(operation.calls):
        return _exhausted(definition, instance, operation, error, now_ms)
    until_ms = now_ms + delay_ms(policy, operation.calls, random, retry_after_ms)
    if not operation.undo and not instance.beyond_pivot:
        until_ms = min(until_ms, instance.deadline_ms)
    return _at_rest(definition, instance, operation, error, until_ms)


def _at_rest(definition: Definition, instance: Instance, operation: Operation, error: str, until_ms: int) -> Transition:
    """The next call is made at `until_ms`, unless the instance turns back, parks or is paused."""
    waiting = replace(operation, until_ms=until_ms, error=error or operation.error)
    rested = with_operation(instance, waiting)
    if instance.back and not operation.undo:
        return turn_back(definition, rested, "", until_ms)
    if instance.parking:
        return go_on(definition, rested, until_ms)
    return rested, () if instance.paused_ms is not None else (Wait(until_ms, operation.step),)


def _due(definition: Definition, instance: Instance, step: int | None, now_ms: int) -> Transition:
    if instance.state is State.WAITING and step is None:
        overdue = not (instance.beyond_pivot or instance.back or instance.paused) and now_ms >= instance.deadline_ms
        if overdue:
            return turn_back(definition, instance, "the deadline passed before it got its semantic lock", now_ms)
        return instance, ()
    operation = instance.operation(step)
    if instance.state not in LIVE or operation is None or operation.until_ms is None:
        raise IllegalTransition(f"Due({step}) in {instance.state}: nothing waits")
    if instance.paused or instance.closing or instance.state is State.WAITING:
        return instance, ()
    if _overdue(instance, operation, now_ms):
        error = operation.error or "the deadline passed"
        return _exhausted(definition, instance, operation, error, now_ms)
    return called(definition, instance, operation)


def _resumed(definition: Definition, instance: Instance, operation: Operation, now_ms: int) -> Transition:
    """The call in flight is made again, with its key and its bytes, if calls are still made."""
    if operation.resumed > RESUME_LIMIT:
        name = operation_name(definition, operation)
        cause = f"{name} was in flight when its worker ended, {operation.resumed} times: it may kill workers"
        return park(definition, _rested(instance, operation, now_ms), cause, now_ms)
    if instance.closing or instance.paused:
        return _at_rest(definition, instance, replace(operation, calls=operation.calls - 1), "", now_ms)
    if _overdue(instance, operation, now_ms):
        cause = "its worker ended, and the deadline passed"
        return _exhausted(definition, instance, operation, cause, now_ms)
    return called(definition, instance, replace(operation, calls=operation.calls - 1))


def _exhausted(definition: Definition, instance: Instance, operation: Operation, error: str, now_ms: int) -> Transition:
    """No further call: go back where that is allowed, else park."""
    times = f"{operation.calls} call{'' if operation.calls == 1 else 's'}"
    cause = f"{operation_name(definition, operation)} failed after {times}: {error}"
    if operation.undo or instance.beyond_pivot:
        return park(definition, _rested(instance, operation, now_ms), cause, now_ms)
    return _settled(definition, instance, operation, cause, now_ms)


def _settled(definition: Definition, instance: Instance, operation: Operation, cause: str, now_ms: int) -> Transition:
    """A step before the pivot failed for good, or may have happened: the instance turns back."""
    if operation.unknown and final(definition, operation):
        cause = f"{cause}; the pivot may have happened and cannot be undone"
        return park(definition, _rested(instance, operation, now_ms), cause, now_ms)
    doubted = (Happened(operation.step, None),) if operation.unknown else ()
    left = replace(instance, operations=_others(instance, operation), happened=(*instance.happened, *doubted))
    return turn_back(definition, left, cause, now_ms)


def _lock(
    definition: Definition, instance: Instance, event: Locked | LockRefused | LockLost, now_ms: int
) -> Transition:
    if instance.state not in LIVE:
        raise IllegalTransition(f"{event!r} in {instance.state}: it needs no lock")
    match event:
        case Locked():
            if instance.locked or instance.state is not State.WAITING:
                return instance, ()
            undoing = any(it.undo for it in instance.operations)
            held = replace(instance, locked=True, state=State.COMPENSATING if undoing else State.RUNNING)
            after, commands = go_on(definition, held, now_ms)
            return after, (*commands, *standing(definition, after))
        case LockRefused(holder):
            if instance.state is not State.WAITING or instance.back:
                return instance, ()
            return turn_back(definition, instance, f"instance {holder} holds its semantic lock", now_ms)
        case LockLost(error):
            if not instance.locked:
                return instance, ()
            return park(definition, replace(instance, locked=False), error, now_ms)


def _others(instance: Instance, operation: Operation) -> tuple[Operation, ...]:
    if len(instance.operations) == 1:
        return ()
    return tuple([it for it in instance.operations if it.step != operation.step])


def _rested(instance: Instance, operation: Operation, now_ms: int) -> Instance:
    """Not in flight any more: a person's verb makes the next call."""
    return with_operation(instance, replace(operation, until_ms=now_ms))


def _overdue(instance: Instance, operation: Operation, now_ms: int) -> bool:
    return not operation.undo and not instance.beyond_pivot and now_ms >= instance.deadline_ms


def _policy(definition: Definition, operation: Operation) -> RetryPolicy:
    return definition.undo_retry if operation.undo else definition.steps[operation.step].retry
