"""An instance's history for people, computed from its journal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Broken, Event, Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.instance import Instance
from marty_msf.core.saga.journal import decode
from marty_msf.core.saga.machine import advance

Line: TypeAlias = Mapping[str, Any]


def timeline(
    definition: Definition, context: Mapping[str, Any], entries: Sequence[bytes]
) -> tuple[Instance, list[Line]]:
    """The instance now, and what happened to it, oldest first: time, step, do or undo, event and its details."""
    instance = Instance(context)
    lines: list[Line] = []
    for entry in entries:
        now_ms, event, _ = decode(entry)
        operation = instance.operation
        line: dict[str, Any] = {"at": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")}
        if operation is not None:
            line |= {"step": definition.steps[operation.step].name, "direction": "undo" if operation.undo else "do"}
        lines.append({**line, "event": event.TAG, **_details(event)})
        instance, _ = advance(definition, instance, event, now_ms)
    return instance, lines


def _details(event: Event) -> Line:
    match event:
        case Succeeded(result):
            return {"result": result} if result else {}
        case Failed(error, unknown):
            return {"error": error, "outcome": "unknown" if unknown else "did not happen"}
        case Rejected(error) | Misconfigured(error) | Unusable(error) | Broken(error):
            return {"error": error}
        case _:
            return {}
