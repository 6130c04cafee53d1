"""What happened to an instance, for people: every attempt with its duration and outcome, computed from the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from marty_msf.core.saga.asked import NAMES
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import (
    EditContext,
    Event,
    Failed,
    Locked,
    LockLost,
    LockRefused,
    Migrated,
    Misconfigured,
    Rejected,
    Restarted,
    Resumed,
    SkipStep,
    Succeeded,
    Unusable,
    Verb,
    Withdrawn,
)
from marty_msf.core.saga.instance import Acquire, Call, Instance, State
from marty_msf.core.saga.journal import decode
from marty_msf.core.saga.machine import advance
from marty_msf.core.saga.stages import operation_name

#: `Line.event` of a call; every other line is named for what happened.
CALL: Final = "call"
IN_FLIGHT: Final = "in flight"
UNKNOWN: Final = "unknown"
_LOST: Final = "its worker ended before the answer was kept"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, at its beginning (milliseconds since 1970)."""

    at_ms: int
    #: CALL, `started`, the state the instance went to, or a person's verb.
    event: str
    step: str = ""
    undo: bool = False
    #: Which call it was since the operation's budget began, from 1; the same again when a new owner repeats it.
    attempt: int = 0
    #: None as long as it is not known.
    duration_ms: int | None = None
    #: Of a call: succeeded, refused, failed (nothing happened there), unknown (it may have), misconfigured, in flight.
    outcome: str = ""
    #: What went wrong, or what a verb says.
    detail: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    #: The person who asked for a verb.
    by: str = ""

    def form(self) -> Mapping[str, Any]:
        """As JSON values, without what does not apply."""
        at = datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        form: dict[str, Any] = {"at": at, "event": self.event, "step": self.step}
        if self.event == CALL:
            form |= {"direction": "undo" if self.undo else "do", "attempt": self.attempt, "outcome": self.outcome}
        form |= {"detail": self.detail, "result": self.result, "by": self.by}
        timed = {} if self.duration_ms is None else {"duration_ms": self.duration_ms}
        return {name: value for name, value in form.items() if value} | timed


@dataclass(frozen=True, slots=True)
class History:
    """An instance now, and how it came there."""

    instance: Instance
    lines: Sequence[Line]
    #: When something happened last; None for an instance nobody took up yet.
    changed_ms: int | None


def former_revisions(entries: Sequence[bytes]) -> Sequence[str]:
    """The revisions that an instance followed before the one it follows now, oldest first."""
    events = (decode(entry)[1] for entry in entries)
    return [event.before for event in events if isinstance(event, Migrated)]


def history(
    definition: Definition, context: Mapping[str, Any], entries: Sequence[bytes], former: Sequence[Definition] = ()
) -> History:
    """Read the whole journal, oldest first; `former` are the definitions of `former_revisions`."""
    ahead = [*former, definition]
    definition = ahead.pop(0)
    instance = Instance(context)
    lines: list[Line] = []
    calling: dict[int, int] = {}
    changed_ms: int | None = None
    for entry in entries:
        changed_ms, event, _ = decode(entry)
        _settle(lines, calling, event, changed_ms)
        before = instance
        if isinstance(event, Migrated):
            definition = ahead.pop(0)
        instance, commands = advance(definition, instance, event, changed_ms)
        lines += _said(definition, event, changed_ms)
        lines += _turned(before, instance, changed_ms)
        for command in commands:
            if isinstance(command, Acquire):
                lines.append(Line(changed_ms, "locking", detail=", ".join(command.keys)))
            elif isinstance(command, Call):
                calling[command.step] = len(lines)
                operation = instance.operation(command.step)
                calls = operation.calls if operation else 1
                name = definition.steps[command.step].name
                lines.append(Line(changed_ms, CALL, name, command.undo, attempt=calls, outcome=IN_FLIGHT))
    return History(instance, [line for line in lines if line.event], changed_ms)


def in_work(definition: Definition, instance: Instance) -> str:
    """The steps being done or undone, separated by commas; empty when there is none."""
    return ", ".join(operation_name(definition, it) for it in instance.operations)


def whereabouts(definition: Definition, instance: Instance) -> str:
    """Where an instance stands, in a few words."""
    work = in_work(definition, instance)
    place = f"{instance.state.value}{f' at {work}' if work else ''}{', paused' if instance.paused else ''}"
    return f"{place}: {instance.error}" if instance.state is State.PARKED else place


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
        case Succeeded(result, step):
            return step, "succeeded", "", result
        case Unusable(error, step):
            return step, "succeeded", error, {}
        case Rejected(error, _, step):
            return step, "refused", error, {}
        case Failed(error, unknown, _, _, step):
            return step, UNKNOWN if unknown else "failed", error, {}
        case Misconfigured(error, step):
            return step, "misconfigured", error, {}
        case Resumed(step) | Restarted(step):
            return step, UNKNOWN, _LOST, {}
        case Withdrawn(step):
            return step, "", "", {}
        case _:
            return None


def _said(definition: Definition, event: Event, now_ms: int) -> list[Line]:
    """What a person or the lock keeper said."""
    match event:
        case Locked():
            return [Line(now_ms, "locked")]
        case LockRefused(holder):
            return [Line(now_ms, "lock refused", detail=f"held by {holder}")]
        case LockLost(error):
            return [Line(now_ms, "lock lost", detail=error)]
        case SkipStep(by, step):
            return [Line(now_ms, NAMES[SkipStep], "" if step is None else definition.steps[step].name, by=by)]
        case EditContext(by, patch):
            return [Line(now_ms, NAMES[EditContext], result=patch, by=by)]
        case Migrated(by, revision):
            return [Line(now_ms, "migrate", detail=f"from revision {revision} to {definition.revision}", by=by)]
        case _ if isinstance(event, Verb):
            return [Line(now_ms, NAMES[type(event)], by=event.by)]
        case _:
            return []


def _turned(before: Instance, after: Instance, now_ms: int) -> list[Line]:
    """Changes of the state."""
    if after.state is before.state:
        return []
    begun = [Line(now_ms, "started")] if before.state is State.PENDING else []
    if after.state is State.RUNNING:
        return begun
    return [*begun, Line(now_ms, after.state.value.lower(), detail=after.error)]
