"""One instance with everything people may want to know of it: shared by the command line and the HTTP surface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection

from marty_msf.core.saga.definition import load
from marty_msf.core.saga.history import Line, former_revisions, history, in_work
from marty_msf.core.saga.instance import Instance, State
from marty_msf.core.saga.journal import fold
from marty_msf.core.trace import of_saga
from marty_msf.store import saga_instance, saga_verb
from marty_msf.store.saga_instance import Shown
from marty_msf.worker.saga.surface.surroundings import lock_holders, look_around


@dataclass(frozen=True, slots=True)
class Portrait:
    """An instance as it is now, and how it came there."""

    shown: Shown
    instance: Instance
    #: The step being done or undone; empty for none.
    step: str
    lines: Sequence[Line]
    #: What it waits for; empty when it waits for nothing, or for a person.
    diagnosis: str
    #: Since when it has made no progress.
    progress_at: datetime
    #: That is longer ago than its Saga allows.
    stuck: bool

    def form(self) -> Mapping[str, Any]:
        """As JSON values, without the lines."""
        shown = self.shown
        return {
            "saga_id": str(shown.id),
            "business_key": shown.business_key,
            "state": shown.state,
            "paused": self.instance.paused,
            "step": self.step or None,
            "stuck": self.stuck,
            "diagnosis": self.diagnosis or None,
            "progress_at": self.progress_at.isoformat(),
            "error": shown.error,
            "started_at": shown.started_at.isoformat(),
            "ended_at": shown.ended_at.isoformat() if shown.ended_at else None,
            "revision": shown.revision,
            "traceparent": shown.traceparent or of_saga(str(shown.id)),
            "context": self.instance.context,
        }


async def show(conn: Connection, resource: str, instance: UUID) -> Portrait | None:
    """One instance of this saga; None when there is none with the id."""
    shown = await saga_instance.get(conn, resource, instance)
    if shown is None:
        return None
    definition = load(shown.definition)
    former = former_revisions(shown.entries)
    stored = await saga_instance.definitions(conn, resource, former) if former else {}
    past = history(
        definition, orjson.loads(shown.context), shown.entries, [load(stored[revision]) for revision in former]
    )
    asked = [unjournaled(verb) for verb in await saga_verb.of_instances(conn, [instance]) if not verb.done]
    lines = sorted([*past.lines, *asked], key=lambda line: line.at_ms)
    folded = fold(definition, orjson.loads(shown.context), shown.entries)
    progress_ms = folded.progress_ms or int(shown.started_at.timestamp() * 1000)
    surroundings = await look_around(conn, [resource])
    holders = await lock_holders(conn, [instance] if past.instance.state is State.WAITING else [])
    return Portrait(
        shown,
        past.instance,
        in_work(definition, past.instance),
        lines,
        surroundings.diagnosis(resource, definition, folded, holders.get(instance, "")),
        datetime.fromtimestamp(progress_ms / 1000, UTC),
        surroundings.stuck(resource, past.instance, progress_ms),
    )


def unjournaled(verb: saga_verb.Verb) -> Line:
    """A verb that is not in the journal: refused, or still open."""
    detail = "not answered yet" if verb.done is None else f"refused: {verb.answer}"
    return Line(int(verb.asked_at.timestamp() * 1000), verb.verb, detail=detail, by=verb.by)
