"""The saga state machine: everything that decides what an instance does next lives in this file.

Rules it keeps:
1. A step whose outcome is unknown may have happened, so it is undone like one that succeeded.
2. Undo goes in the reverse of the order in which steps completed (their order in `Instance.happened`).
3. Once the pivot succeeded (or was skipped) nothing is undone: later steps are retried, then the instance is parked.
4. Nothing is retried for ever: a budget that is used up leads to compensation or to Parked.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from marty_msf.core.errors import ExpressionError, IllegalTransition
from marty_msf.core.retry import RetryPolicy, delay_ms
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Broken,
    Due,
    Event,
    Failed,
    Misconfigured,
    Rejected,
    Restarted,
    Resumed,
    Started,
    Succeeded,
    Unusable,
    Withdrawn,
)
from marty_msf.core.saga.instance import (
    LIVE,
    RESERVED,
    Call,
    Command,
    End,
    Happened,
    Instance,
    Operation,
    State,
    Wait,
    context_problem,
)

#: New owners that may find one and the same call in flight before it is taken for what kills its workers.
RESUME_LIMIT: Final = 20
Transition = tuple[Instance, Command]
_END: Final = End()


def advance(definition: Definition, instance: Instance, event: Event, now_ms: int) -> Transition:
    """Apply one event. The caller makes the event (and the body of a first call) durable before it obeys the command.

    Raises IllegalTransition, changing nothing, when the event does not fit the instance.
    """
    operation = instance.operation
    if isinstance(event, Started):
        if instance.state is not State.PENDING:
            raise IllegalTransition(f"{event!r} in {instance.state}: an instance starts once")
        begun = Instance(instance.context, State.RUNNING, deadline_ms=event.deadline_ms)
        return _forward(definition, begun, 0, now_ms)
    if isinstance(event, Broken) and instance.state in LIVE:
        return _parked(instance, event.error)
    if operation is None or instance.state not in LIVE or isinstance(event, Broken):
        raise IllegalTransition(f"{event!r} in {instance.state}: nothing is in work")
    if (operation.until_ms is not None) is not isinstance(event, Due):
        raise IllegalTransition(f"{event!r} while {'waiting' if operation.until_ms is not None else 'calling'}")
    if isinstance(event, Due):
        return _due(definition, instance, operation, now_ms)
    return _answered(definition, instance, operation, event, now_ms)


def _answered(
    definition: Definition,
    instance: Instance,
    operation: Operation,
    event: Succeeded | Unusable | Rejected | Failed | Misconfigured | Resumed | Restarted | Withdrawn,
    now_ms: int,
) -> Transition:
    """What became of the call in flight."""
    match event:
        case Succeeded(result):
            return _succeeded(definition, instance, operation, result, now_ms)
        case Failed(error, unknown, random, retry_after_ms):
            met = replace(operation, unknown=operation.unknown or unknown)
            return _retry(definition, instance, met, error, random, retry_after_ms, now_ms)
        case Rejected(error, random):
            return _rejected(definition, instance, operation, error, random, now_ms)
        case Resumed():
            met = replace(operation, resumed=operation.resumed + 1)
            return _resumed(definition, instance, met, now_ms)
        case Restarted():
            return _resumed(definition, instance, operation, now_ms)
        case Withdrawn():
            waiting = replace(operation, calls=operation.calls - 1, until_ms=now_ms)
            return replace(instance, operation=waiting), Wait(now_ms)
        case Misconfigured(error):
            return _parked(instance, f"{_name(definition, operation)}: {error}")
        case Unusable(error) if not operation.undo:
            kept = _with_happened(definition, instance, operation.step, {})
            return _parked(kept, f"{_name(definition, operation)} succeeded, but {error}")
        case Unusable():
            return _succeeded(definition, instance, operation, {}, now_ms)


def request_body(definition: Definition, instance: Instance, saga_id: str) -> bytes:
    """The body of the call that `instance` has in flight, as the call contract defines it."""
    operation = instance.operation
    assert operation is not None
    step = definition.steps[operation.step]
    body: dict[str, Any] = {"saga_id": saga_id, "step": step.name, "context": instance.context, "data": step.data}
    if operation.undo:
        body["result"] = instance.happened[-1].result
    return orjson.dumps(body)


def idempotency_key(definition: Definition, saga_id: str, call: Call) -> str:
    """The same for every call of one operation; the last part would only rise by a person's verb."""
    return f"{saga_id}:{definition.steps[call.step].name}:{'undo' if call.undo else 'do'}:1"


def _forward(definition: Definition, instance: Instance, first: int, now_ms: int) -> Transition:
    """Begin the first step from index `first` on whose condition holds."""
    variables: dict[str, Any] | None = None
    beyond_pivot = instance.beyond_pivot
    for index in range(first, len(definition.steps)):
        step = definition.steps[index]
        if step.condition is not None:
            variables = variables or {**instance.context, RESERVED: instance.context}
            try:
                if not step.condition.holds(variables):
                    # The steps behind a pivot have no undo, so its place counts, not whether it was called.
                    beyond_pivot = beyond_pivot or step.pivot
                    continue
            except ExpressionError as error:
                return _parked(_at(instance, instance.state, None, beyond_pivot), str(error))
        if not beyond_pivot and now_ms >= instance.deadline_ms:
            return _backward(definition, instance, f"the deadline passed before step {step.name!r} began")
        begun = _at(instance, instance.state, Operation(index, False), beyond_pivot)
        return _call(definition, begun, first=True)
    return _at(instance, State.COMPLETED, None, beyond_pivot), _END


def _at(instance: Instance, state: State, operation: Operation | None, beyond_pivot: bool) -> Instance:
    return Instance(
        instance.context,
        state,
        instance.happened,
        beyond_pivot,
        instance.deadline_ms,
        operation,
        instance.error,
    )


def _backward(definition: Definition, instance: Instance, error: str = "") -> Transition:
    """Undo the newest step that may have happened and has a compensation."""
    happened = instance.happened
    while happened and definition.steps[happened[-1].step].compensation is None:
        happened = happened[:-1]
    error = error or instance.error
    if not happened:
        ended = replace(instance, state=State.COMPENSATED, happened=(), operation=None, error=error)
        return ended, _END
    operation = Operation(happened[-1].step, undo=True)
    undoing = replace(instance, state=State.COMPENSATING, happened=happened, operation=operation, error=error)
    return _call(definition, undoing, first=True)


def _call(definition: Definition, instance: Instance, *, first: bool) -> Transition:
    operation = instance.operation
    assert operation is not None
    not_after_ms = None if operation.undo or instance.beyond_pivot else instance.deadline_ms
    timeout_ms = definition.steps[operation.step].timeout_ms
    return instance, Call(operation.step, operation.undo, timeout_ms, not_after_ms, first)


def _succeeded(
    definition: Definition, instance: Instance, operation: Operation, result: Mapping[str, Any], now_ms: int
) -> Transition:
    if operation.undo:
        return _backward(definition, replace(instance, happened=instance.happened[:-1]))
    context, problem = instance.context, None
    if result:
        context = {**context, **result}
        problem = context_problem(context)
    if problem:
        kept = _with_happened(definition, instance, operation.step, result)
        return _parked(kept, f"{_name(definition, operation)} succeeded, but {problem}")
    # Spelled out: this is the path every call takes, and `replace` costs three times as much.
    after = Instance(
        context,
        instance.state,
        (*instance.happened, Happened(operation.step, result)),
        instance.beyond_pivot or definition.steps[operation.step].pivot,
        instance.deadline_ms,
        None,
        instance.error,
    )
    return _forward(definition, after, operation.step + 1, now_ms)


def _rejected(
    definition: Definition, instance: Instance, operation: Operation, error: str, random: float, now_ms: int
) -> Transition:
    if operation.undo or instance.beyond_pivot:
        return _retry(definition, instance, operation, error, random, None, now_ms)
    cause = f"{_name(definition, operation)} was refused: {error}"
    step = definition.steps[operation.step]
    # An earlier call of unknown outcome may still take effect late. Its undo is harmless if it does not.
    if operation.unknown and step.compensation is not None:
        return _backward(definition, _with_doubt(instance, operation.step), cause)
    return _backward(definition, instance, cause)


def _retry(
    definition: Definition,
    instance: Instance,
    operation: Operation,
    error: str,
    random: float,
    retry_after_ms: int | None,
    now_ms: int,
) -> Transition:
    """Wait for the next call, or give up when budget or time are used up."""
    policy = _policy(definition, operation)
    overdue = not operation.undo and _overdue(instance, now_ms)
    if overdue or not policy.allows(operation.calls):
        return _exhausted(definition, instance, operation, error)
    until_ms = now_ms + delay_ms(policy, operation.calls, random, retry_after_ms)
    if not operation.undo and not instance.beyond_pivot:
        until_ms = min(until_ms, instance.deadline_ms)
    waiting = replace(operation, until_ms=until_ms, error=error)
    return replace(instance, operation=waiting), Wait(until_ms)


def _due(definition: Definition, instance: Instance, operation: Operation, now_ms: int) -> Transition:
    if not operation.undo and _overdue(instance, now_ms):
        return _exhausted(definition, instance, operation, operation.error or "the deadline passed")
    calling = replace(operation, calls=operation.calls + 1, until_ms=None)
    return _call(definition, replace(instance, operation=calling), first=False)


def _resumed(definition: Definition, instance: Instance, operation: Operation, now_ms: int) -> Transition:
    again = replace(operation, unknown=True)
    if again.resumed > RESUME_LIMIT:
        return _parked(
            replace(instance, operation=again),
            f"{_name(definition, operation)} was in flight when its worker ended, {again.resumed} times: it may kill workers",
        )
    if not again.undo and _overdue(instance, now_ms):
        return _exhausted(definition, instance, again, "its worker ended, and the deadline passed")
    return _call(definition, replace(instance, operation=again), first=False)


def _exhausted(definition: Definition, instance: Instance, operation: Operation, error: str) -> Transition:
    """No further call: go back where that is allowed, else park."""
    step = definition.steps[operation.step]
    times = f"{operation.calls} call{'' if operation.calls == 1 else 's'}"
    cause = f"{_name(definition, operation)} failed after {times}: {error}"
    kept = replace(instance, operation=operation)
    if operation.undo or instance.beyond_pivot:
        return _parked(kept, f"{instance.error}; {cause}" if operation.undo and instance.error else cause)
    if not operation.unknown:
        return _backward(definition, kept, cause)
    if step.pivot and step.compensation is None:
        return _parked(kept, f"{cause}; the pivot may have happened and cannot be undone")
    return _backward(definition, _with_doubt(kept, operation.step), cause)


def _parked(instance: Instance, error: str) -> Transition:
    return replace(instance, state=State.PARKED, error=error), _END


def _with_happened(definition: Definition, instance: Instance, step: int, result: Mapping[str, Any]) -> Instance:
    return replace(
        instance,
        happened=(*instance.happened, Happened(step, result)),
        beyond_pivot=instance.beyond_pivot or definition.steps[step].pivot,
    )


def _with_doubt(instance: Instance, step: int) -> Instance:
    """The outcome of the step's calls is unknown: it may have happened."""
    return replace(instance, happened=(*instance.happened, Happened(step, None)))


def _overdue(instance: Instance, now_ms: int) -> bool:
    return not instance.beyond_pivot and now_ms >= instance.deadline_ms


def _policy(definition: Definition, operation: Operation) -> RetryPolicy:
    return definition.undo_retry if operation.undo else definition.steps[operation.step].retry


def _name(definition: Definition, operation: Operation) -> str:
    name = definition.steps[operation.step].name
    return f"undo of {name}" if operation.undo else name
