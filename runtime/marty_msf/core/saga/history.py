"""What happened to an instance, for people: every attempt with its duration and outcome, computed from the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    Event,
    Failed,
    Misconfigured,
    Rejected,
    Restarted,
    Resumed,
    Succeeded,
    Unusable,
    Withdrawn,
)
from marty_msf.core.saga.instance import Call, Instance, Operation, State
from marty_msf.core.saga.journal import decode
from marty_msf.core.saga.machine import advance

#: `Line.event` of a call; every other line is named for what happened.
CALL: Final = "call"
IN_FLIGHT: Final = "in flight"
UNKNOWN: Final = "unknown"
_LOST: Final = "its worker ended before the answer was kept"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, at its beginning (milliseconds since 1970)."""

    at_ms: int
    #: CALL, `started`, or the state the instance went to.
    event: str
    step: str = ""
    undo: bool = False
    #: Which call it was since the operation's budget began, from 1; the same again when a new owner repeats it.
    attempt: int = 0
    #: None as long as it is not known.
    duration_ms: int | None = None
    #: Of a call: succeeded, refused, failed (nothing happened there), unknown (it may have), misconfigured, in flight.
    outcome: str = ""
    #: What went wrong.
    detail: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    def form(self) -> Mapping[str, Any]:
        """As JSON values, without what does not apply."""
        at = datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        form: dict[str, Any] = {"at": at, "event": self.event, "step": self.step}
        if self.event == CALL:
            form |= {"direction": "undo" if self.undo else "do", "attempt": self.attempt, "outcome": self.outcome}
        form |= {"detail": self.detail, "result": self.result}
        timed = {} if self.duration_ms is None else {"duration_ms": self.duration_ms}
        return {name: value for name, value in form.items() if value} | timed


@dataclass(frozen=True, slots=True)
class History:
    """An instance now, and how it came there."""

    instance: Instance
    lines: Sequence[Line]
    #: When something happened last; None for an instance nobody took up yet.
    changed_ms: int | None


def history(definition: Definition, context: Mapping[str, Any], entries: Sequence[bytes]) -> History:
    """Read the whole journal, oldest first."""
    instance = Instance(context)
    lines: list[Line] = []
    calling: dict[int, int] = {}
    changed_ms: int | None = None
    for entry in entries:
        changed_ms, event, _ = decode(entry)
        _settle(lines, calling, event, changed_ms)
        before = instance
        instance, command = advance(definition, instance, event, changed_ms)
        lines += _turned(before, instance, changed_ms)
        if isinstance(command, Call):
            calling[command.step] = len(lines)
            operation = instance.operation
            calls = operation.calls if operation else 1
            name = definition.steps[command.step].name
            lines.append(Line(changed_ms, CALL, name, command.undo, attempt=calls, outcome=IN_FLIGHT))
    return History(instance, [line for line in lines if line.event], changed_ms)


def in_work(definition: Definition, instance: Instance) -> str:
    """The steps being done or undone, separated by commas; empty when there is none."""
    return operation_name(definition, instance.operation) if instance.operation else ""


def operation_name(definition: Definition, operation: Operation) -> str:
    """`charge`, or `undo of charge`."""
    name = definition.steps[operation.step].name
    return f"undo of {name}" if operation.undo else name


def _settle(lines: list[Line], calling: dict[int, int], event: Event, now_ms: int) -> None:
    """Complete the line of the call that `event` answers."""
    answer = _answer(event)
    if answer is None or not calling:
        return
    step, outcome, detail, result = answer
    at = calling.pop(next(iter(calling)) if step is None else step)
    duration_ms = None if detail is _LOST else now_ms - lines[at].at_ms
    # A call that was never made leaves no line; its place stays, because other calls are known by theirs.
    event_name = "" if isinstance(event, Withdrawn) else CALL
    lines[at] = replace(
        lines[at], event=event_name, duration_ms=duration_ms, outcome=outcome, detail=detail, result=result
    )


def _answer(event: Event) -> tuple[int | None, str, str, Mapping[str, Any]] | None:
    """Step, outcome, error and result of a call; None for an event that answers none."""
    match event:
        case Succeeded(result):
            return None, "succeeded", "", result
        case Unusable(error):
            return None, "succeeded", error, {}
        case Rejected(error):
            return None, "refused", error, {}
        case Failed(error, unknown):
            return None, UNKNOWN if unknown else "failed", error, {}
        case Misconfigured(error):
            return None, "misconfigured", error, {}
        case Resumed() | Restarted():
            return None, UNKNOWN, _LOST, {}
        case Withdrawn():
            return None, "", "", {}
        case _:
            return None


def _turned(before: Instance, after: Instance, now_ms: int) -> list[Line]:
    """Changes of the state."""
    if after.state is before.state:
        return []
    begun = [Line(now_ms, "started")] if before.state is State.PENDING else []
    if after.state is State.RUNNING:
        return begun
    return [*begun, Line(now_ms, after.state.value.lower(), detail=after.error)]
