"""What a saga instance is, and what the machine can ask for: values only."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias

import orjson

from marty_msf.core.value import value

CONTEXT_LIMIT_BYTES: Final = 256 * 1024
#: A new instance's context leaves room for the answers of its steps.
START_LIMIT_BYTES: Final = 192 * 1024
#: Levels of objects and lists in a context, the context itself included. Request bodies and journal entries nest it a
#: little deeper, which has to stay far below what JSON libraries here and in the services take.
NESTING_LIMIT: Final = 64
#: The whole context's own name in conditions; no member of it may be called so.
RESERVED: Final = "context"
_HOLDERS: Final = (dict, list)


class State(StrEnum):
    #: Durable, not yet taken up by a worker.
    PENDING = "Pending"
    #: Taken up; begins or goes on when it holds its semantic lock.
    WAITING = "Waiting"
    #: Going forward.
    RUNNING = "Running"
    #: Undoing what may have happened.
    COMPENSATING = "Compensating"
    #: Every step succeeded or was skipped.
    COMPLETED = "Completed"
    #: Everything that may have happened was undone.
    COMPENSATED = "Compensated"
    #: Ended without success before anything may have happened: there was nothing to undo.
    FAILED = "Failed"
    #: A person cancelled it, and everything that may have happened was undone.
    CANCELLED = "Cancelled"
    #: Waits for a person; keeps everything it knows.
    PARKED = "Parked"


LIVE: Final = frozenset({State.PENDING, State.WAITING, State.RUNNING, State.COMPENSATING})


@value
class Happened:
    """A step that happened, or may have: then the result is None."""

    step: int
    result: Mapping[str, Any] | None


@value
class Operation:
    """Doing or undoing one step. It is in flight (called, not answered) or at rest."""

    step: int
    undo: bool
    #: Calls made since a person last gave it a new budget, the one in flight included.
    calls: int = 1
    #: Some call so far may have had its effect.
    unknown: bool = False
    #: Processes that ended while it was in flight.
    resumed: int = 0
    #: At rest: the next call is made then, unless the instance is paused, turns back or parks. None: in flight.
    until_ms: int | None = None
    #: Of the last call that failed.
    error: str = ""
    #: Last part of its idempotency key; a person's verb makes it rise.
    number: int = 1
    #: The number rose, and the request body for it is not made yet.
    anew: bool = False


@value
class Instance:
    """One execution of a saga."""

    context: Mapping[str, Any]
    state: State = State.PENDING
    #: What may have happened and is not undone, in the order of completion.
    happened: tuple[Happened, ...] = ()
    beyond_pivot: bool = False
    deadline_ms: int = 0
    #: What is in work, in the order of the steps; kept when parked, so that a person can see and resume it.
    operations: tuple[Operation, ...] = ()
    #: Why it compensates or is parked.
    error: str = ""
    #: The first stage whose results are not in the context yet.
    stage: int = 0
    #: Steps of that stage which are to be done and have not begun.
    todo: tuple[int, ...] = ()
    #: It turned back: nothing begins any more but undos, once no call is in flight.
    back: bool = False
    #: It parks once no call is in flight.
    parking: bool = False
    #: Since when nothing begins and no wait ends; None when it is not paused.
    paused_ms: int | None = None
    cancelled: bool = False
    #: It holds the semantic lock that its definition asks for.
    locked: bool = False

    @property
    def paused(self) -> bool:
        """Whether a person paused it."""
        return self.paused_ms is not None

    @property
    def closing(self) -> State | None:
        """What the instance becomes as soon as no call is in flight; None when it goes on."""
        if self.parking:
            return State.PARKED
        return State.COMPENSATING if self.back and self.state is State.RUNNING else None

    def operation(self, step: int | None) -> Operation | None:
        """The operation of a step; of None, the only one there is."""
        if step is None:
            return self.operations[0] if len(self.operations) == 1 else None
        return next((it for it in self.operations if it.step == step), None)


def stands_still(instance: Instance, *, undo: bool) -> bool:
    """Whether no call is to be made now that does (or, with `undo`, undoes) a step."""
    return instance.paused or instance.parking or (instance.back and not undo)


def in_flight(instance: Instance) -> bool:
    """Whether the answer of some call is open."""
    return any(it.until_ms is None for it in instance.operations)


@value
class Call:
    """Call the service, once this intent is durable. The answer comes back as an event."""

    step: int
    undo: bool
    timeout_ms: int
    #: The call is cut off here: the instance's deadline; None where the deadline does not count any more.
    not_after_ms: int | None
    #: The first call with this idempotency key: its body is made now and stays the same for every later call.
    first: bool
    #: Last part of the idempotency key.
    number: int = 1


@value
class Wait:
    """Give the event Due at this time (milliseconds since 1970)."""

    until_ms: int
    #: Of the operation at rest; None when the instance itself waits, for its semantic lock.
    step: int | None = None


@value
class Acquire:
    """Get the semantic lock for these keys, which are sorted and distinct. Asking again changes nothing."""

    keys: tuple[str, ...]
    #: Say LockRefused when another instance holds one of them, instead of waiting for it.
    reject: bool


@value
class End:
    """Nothing more to do: the instance's state is none of the live ones. Calls still in flight come to nothing."""


Command: TypeAlias = Call | Wait | Acquire | End
Commands: TypeAlias = tuple[Command, ...]
Transition: TypeAlias = tuple[Instance, Commands]


def context_problem(context: Mapping[str, Any]) -> str | None:
    """Why a context of JSON values cannot be kept, or None."""
    return members_problem(context) or size_problem(orjson.dumps(context))


def size_problem(encoded: bytes, limit_bytes: int = CONTEXT_LIMIT_BYTES) -> str | None:
    """Why a context, encoded as JSON, is too large, or None."""
    size = len(encoded)
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
    for inner in members.values():
        if isinstance(inner, _HOLDERS):
            break
    else:  # mostly
        return False
    level = _holders(members.values())
    for _ in range(NESTING_LIMIT - 1):
        if not level:
            return False
        level = [it for holder in level for it in _holders(holder.values() if isinstance(holder, dict) else holder)]
    return bool(level)


def _holders(values: Iterable[Any]) -> list[Any]:
    """The objects and lists among JSON values."""
    return [value for value in values if isinstance(value, _HOLDERS)]
