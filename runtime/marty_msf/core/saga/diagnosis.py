"""What a live instance waits for, and since when it has made no progress. Pure.

Progress is a step that was done or undone, a change of the state, or a person's verb. A call that failed once more is none:
an instance that is only ever called again stands still.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from marty_msf.core.saga.calling import HttpCall, KafkaCall, PythonCall
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.instance import LIVE, Instance, Operation, State
from marty_msf.core.saga.stages import operation_name


class Cause(StrEnum):
    """What stands in an instance's way; label values of a metric, so they never change."""

    #: No worker took it up.
    PENDING = "pending"
    #: Another instance holds its semantic lock.
    LOCK = "lock"
    #: The circuit breaker of a service holds its call back.
    BREAKER = "breaker"
    #: A call has no answer yet.
    REPLY = "reply"
    #: Calls failed; the next one is made later.
    RETRY = "retry"
    #: What it is cannot be read by the workers there are.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Around:
    """What lies outside of the instance. Everything may be left out: then the diagnosis says less."""

    #: Services whose breaker is not closed, with the error that opened it.
    breakers: Mapping[str, str] = field(default_factory=dict)
    #: When the calls in flight were made, by step (milliseconds since 1970).
    called_ms: Mapping[int, int] = field(default_factory=dict)
    #: Who holds the semantic lock, as people call it.
    lock_holder: str = ""


NOWHERE = Around()


def progressed(before: Instance, after: Instance) -> bool:
    """Whether the second value of an instance is further than the first one, from which `advance` made it.

    Compares identities, because it is asked about every live instance every few seconds.
    """
    return (
        after.happened is not before.happened
        or after.state is not before.state
        or after.paused_ms != before.paused_ms
        or after.context is not before.context
    )


def cause(definition: Definition, instance: Instance, around: Around = NOWHERE) -> Cause | None:
    """What a live instance waits for; None for one that waits for nothing, or for a person."""
    if instance.state not in LIVE or instance.paused:
        return None
    if instance.state is State.PENDING:
        return Cause.PENDING
    if instance.state is State.WAITING:
        return Cause.LOCK
    causes = {_cause(definition, operation, around) for operation in instance.operations}
    return next((it for it in (Cause.BREAKER, Cause.REPLY, Cause.RETRY) if it in causes), None)


def diagnosis(definition: Definition, instance: Instance, around: Around = NOWHERE) -> str:
    """What it waits for, as a sentence; empty where `cause` is None."""
    match cause(definition, instance, around):
        case None:
            return ""
        case Cause.PENDING:
            return "no worker took it up: does one run, and can it read the definition that it follows?"
        case Cause.LOCK:
            holder = around.lock_holder or "another instance"
            return f"waiting for its semantic lock, held by {holder}"
        case _:
            return "; ".join(_sentence(definition, operation, around) for operation in instance.operations)


def stuck(since_ms: int, instance: Instance, bound_seconds: int, now_ms: int) -> bool:
    """Whether an instance that made its last progress at `since_ms` stands still for too long."""
    return instance.state in LIVE and not instance.paused and now_ms - since_ms >= bound_seconds * 1000


def _cause(definition: Definition, operation: Operation, around: Around) -> Cause:
    if operation.until_ms is not None:
        return Cause.RETRY
    step = definition.steps[operation.step]
    return Cause.BREAKER if step.breaker is not None and step.service in around.breakers else Cause.REPLY


def _sentence(definition: Definition, operation: Operation, around: Around) -> str:
    name, step = operation_name(definition, operation), definition.steps[operation.step]
    match _cause(definition, operation, around):
        case Cause.BREAKER:
            error = around.breakers[step.service]
            return f"{name}: breaker open on {step.service}{f' ({error})' if error else ''}"
        case Cause.RETRY:
            times = "once" if operation.calls == 1 else f"{operation.calls} times"
            failed = f"failed {times}: {operation.error}; " if operation.error else ""
            return f"{name}: {failed}next call at {_clock(operation.until_ms or 0)}"
        case _:
            since = around.called_ms.get(operation.step)
            match step.call:
                case HttpCall():
                    missing = f"reply of {step.service} missing"
                case PythonCall(handler):
                    missing = f"function {handler!r} has not returned"
                case KafkaCall():
                    missing = f"reply of {step.service} on Kafka topic {step.call.reply_topic} missing"
            return f"{name}: {missing}{f' since {_clock(since)}' if since else ''} (call {operation.calls})"


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
