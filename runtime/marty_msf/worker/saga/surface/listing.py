"""Pages of instances with where each one stands: shared by the command line and the HTTP surface."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from asyncpg import Connection

from marty_msf.core.errors import MartyError
from marty_msf.core.saga.definition import Definition, load
from marty_msf.core.saga.history import in_work
from marty_msf.core.saga.instance import State
from marty_msf.core.saga.journal import decode, fold
from marty_msf.core.saga.selection import Selection
from marty_msf.store import saga_instance, saga_list
from marty_msf.store.saga_list import Listed
from marty_msf.worker.saga.surface.surroundings import Surroundings, lock_holders, look_around

logger = logging.getLogger(__name__)

#: Read at once when a step is looked for, which only the journals know.
_CHUNK: Final = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One instance in a list."""

    id: UUID
    resource: str
    business_key: str
    state: str
    #: The step being done or undone; empty for none.
    step: str
    started_at: datetime
    #: When something happened to it last.
    changed_at: datetime
    ended_at: datetime | None
    revision: str
    error: str
    #: It stands still for longer than its Saga allows.
    stuck: bool = False
    #: What an instance waits for that is not ended; empty when it waits for nothing, or for a person.
    diagnosis: str = ""

    def form(self) -> Mapping[str, Any]:
        """As JSON values."""
        return {
            "saga_id": str(self.id),
            "saga": self.resource,
            "business_key": self.business_key,
            "state": self.state,
            "step": self.step or None,
            "started_at": self.started_at.isoformat(),
            "changed_at": self.changed_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "revision": self.revision,
            "error": self.error or None,
            "stuck": self.stuck,
            "diagnosis": self.diagnosis or None,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first."""

    rows: Sequence[Row]
    #: Give it as `Selection.below_id` for the page behind this one; None when there is none.
    next: UUID | None


async def page(conn: Connection, resources: Sequence[str] | None, chosen: Selection, limit: int) -> Page:
    """Up to `limit` instances of these sagas (all of them for None)."""
    rows: list[Row] = []
    chunk = max(limit + 1, _CHUNK) if chosen.step is not None or chosen.stuck else limit + 1
    definitions: dict[tuple[str, str], Definition] = {}
    surroundings = Surroundings()
    while True:
        found = await saga_list.page(conn, resources, chosen, chunk)
        await _learn(conn, found, definitions)
        if new := {it.resource for it in found if it.ended_at is None} - surroundings.known:
            surroundings = surroundings.joined(await look_around(conn, sorted(new)))
        holders = await lock_holders(conn, [it.id for it in found if it.state == State.WAITING])
        read = [_row(it, definitions, surroundings, holders.get(it.id, "")) for it in found]
        rows += [row for row in read if _chosen(row, chosen)]
        if len(rows) > limit:
            return Page(rows[:limit], rows[limit - 1].id)
        if len(found) < chunk:
            return Page(rows, None)
        chosen = replace(chosen, below_id=found[-1].id)


async def _learn(conn: Connection, found: Sequence[Listed], definitions: dict[tuple[str, str], Definition]) -> None:
    missing: defaultdict[str, set[str]] = defaultdict(set)
    for it in found:
        if it.ended_at is None and (it.resource, it.revision) not in definitions:
            missing[it.resource].add(it.revision)
    for resource, revisions in missing.items():
        stored = await saga_instance.definitions(conn, resource, sorted(revisions))
        definitions.update({(resource, revision): load(form) for revision, form in stored.items()})


def _chosen(row: Row, chosen: Selection) -> bool:
    """Whether it fits the filters that only the journal can answer."""
    return chosen.step in (None, row.step.removeprefix("undo of ")) and (row.stuck or not chosen.stuck)


def _row(
    it: Listed, definitions: Mapping[tuple[str, str], Definition], surroundings: Surroundings, lock_holder: str
) -> Row:
    step, changed_at, stuck, diagnosis = "", it.ended_at or it.started_at, False, ""
    definition = definitions.get((it.resource, it.revision))
    if it.ended_at is None and definition is not None and it.context is not None:
        try:
            folded = fold(definition, orjson.loads(it.context), it.entries)
        except MartyError as error:
            # One instance that a fault of ours made unreadable must not hide the others.
            logger.warning("saga instance %s cannot be read: %s", it.id, error)
            step = "?"
        else:
            step = in_work(definition, folded.instance)
            progress_ms = folded.progress_ms or int(it.started_at.timestamp() * 1000)
            stuck = surroundings.stuck(it.resource, folded.instance, progress_ms)
            diagnosis = surroundings.diagnosis(it.resource, definition, folded, lock_holder)
            if it.entries:
                changed_at = datetime.fromtimestamp(decode(it.entries[-1])[0] / 1000, UTC)
    return Row(
        it.id,
        it.resource,
        it.business_key,
        it.state,
        step,
        it.started_at,
        changed_at,
        it.ended_at,
        it.revision,
        it.error or "",
        stuck,
        diagnosis,
    )
