"""What a saga instance is, and what the machine can ask for: values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import orjson

CONTEXT_LIMIT_BYTES: Final = 256 * 1024
#: A new instance's context leaves room for the answers of its steps.
START_LIMIT_BYTES: Final = 192 * 1024
#: Levels of objects and lists in a context, the context itself included. Request bodies and journal entries nest it a
#: little deeper, which has to stay far below what JSON libraries here and in the services take.
NESTING_LIMIT: Final = 64
#: The whole context's own name in conditions; no member of it may be called so.
RESERVED: Final = "context"


class State(StrEnum):
    #: Durable, not yet taken up by a worker.
    PENDING = "Pending"
    #: Going forward.
    RUNNING = "Running"
    #: Undoing what may have happened.
    COMPENSATING = "Compensating"
    #: Every step succeeded or was skipped by its condition.
    COMPLETED = "Completed"
    #: Everything that may have happened was undone.
    COMPENSATED = "Compensated"
    #: Waits for a person; keeps everything it knows.
    PARKED = "Parked"


LIVE: Final = frozenset({State.PENDING, State.RUNNING, State.COMPENSATING})


@dataclass(frozen=True, slots=True)
class Happened:
    """A step that happened, or may have: then the result is None."""

    step: int
    result: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Operation:
    """Doing or undoing one step."""

    step: int
    undo: bool
    #: Calls made, the one in flight included.
    calls: int = 1
    #: Some call so far may have had its effect.
    unknown: bool = False
    #: Processes that ended while it was in flight.
    resumed: int = 0
    #: End of the wait before the next call; None while a call is in flight.
    until_ms: int | None = None
    #: Of the last call that failed.
    error: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """One execution of a saga."""

    context: Mapping[str, Any]
    state: State = State.PENDING
    #: What may have happened and is not undone, in the order of completion.
    happened: tuple[Happened, ...] = ()
    beyond_pivot: bool = False
    deadline_ms: int = 0
    #: What is in work; kept when parked, so that a person can see and resume it.
    operation: Operation | None = None
    #: Why it compensates or is parked.
    error: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """Call the service, once this intent is durable. The answer comes back as an event."""

    step: int
    undo: bool
    timeout_ms: int
    #: The call is cut off here: the instance's deadline; None where the deadline does not count any more.
    not_after_ms: int | None
    #: The operation's first call: its request body is made now and stays the same for every later call.
    first: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Give the event Due at this time (milliseconds since 1970)."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more to do: the instance's state is Completed, Compensated or Parked."""


Command: TypeAlias = Call | Wait | End


def context_problem(context: Mapping[str, Any], limit_bytes: int = CONTEXT_LIMIT_BYTES) -> str | None:
    """Why a context of JSON values cannot be kept, or None."""
    if problem := members_problem(context):
        return problem
    size = len(orjson.dumps(context))
    if size > limit_bytes:
        return f"the context would have {size} bytes, {limit_bytes} are allowed: keep identifiers in it, not data"
    return None


def members_problem(members: Mapping[str, Any]) -> str | None:
    """Why JSON values cannot become members of a context, whatever their size, or None."""
    if RESERVED in members:
        return f"the name {RESERVED!r} is reserved for the whole context: rename the member"
    if _nests_too_deep(members):
        return (
            f"objects and lists are nested over {NESTING_LIMIT} levels deep: keep identifiers in the context, not data"
        )
    return None


def _nests_too_deep(members: Mapping[str, Any]) -> bool:
    """Level by level, because recursion would fail at just the values this looks for."""
    level: list[Any] = [members]
    for _ in range(NESTING_LIMIT):
        level = [
            value
            for holder in level
            for value in (holder.values() if isinstance(holder, Mapping) else holder)
            if isinstance(value, dict | list)
        ]
        if not level:
            return False
    return True
