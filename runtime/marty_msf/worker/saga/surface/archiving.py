"""Ended instances with everything that happened to them, as one JSON object each: for `marty saga archive`."""

import base64
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson
from asyncpg import Connection

from marty_msf.core.errors import MartyError
from marty_msf.core.saga.definition import Definition, load
from marty_msf.core.saga.ended import Ended
from marty_msf.core.saga.history import former_revisions, history
from marty_msf.store import saga_archive, saga_instance, saga_verb
from marty_msf.store.saga_instance import Shown
from marty_msf.store.saga_verb import Verb
from marty_msf.worker.saga.surface.showing import unjournaled

#: Instances read at once: a journal may have megabytes.
PAGE_LIMIT: Final = 50
_FIRST_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Archived:
    """One instance."""

    state: str
    #: A JSON object, without the end of the line.
    line: bytes
    #: Why its past cannot be told; its journal stands in the line as it is. None for all that are sound.
    unreadable: str | None


async def archived(conn: Connection, resource: str, chosen: Ended) -> AsyncIterator[Sequence[Archived]]:
    """Pages of ended instances, oldest start first. What is removed meanwhile is left out."""
    definitions: dict[str, Definition] = {}
    after = _FIRST_ID
    while page := await saga_archive.page(conn, resource, chosen, after, PAGE_LIMIT):
        asked: defaultdict[UUID, list[Verb]] = defaultdict(list)
        for verb in await saga_verb.of_instances(conn, [shown.id for shown in page]):
            asked[verb.instance].append(verb)
        for shown in page:
            if shown.revision not in definitions:
                definitions[shown.revision] = load(shown.definition)
        yield [await _archived(conn, resource, shown, asked[shown.id], definitions) for shown in page]
        after = page[-1].id


async def _archived(
    conn: Connection, resource: str, shown: Shown, asked: Sequence[Verb], definitions: dict[str, Definition]
) -> Archived:
    try:
        former = former_revisions(shown.entries)
        await _learn(conn, resource, former, definitions)
        started_with = orjson.loads(shown.context)
        past = history(
            definitions[shown.revision], started_with, shown.entries, [definitions[revision] for revision in former]
        )
        lines = [*past.lines, *(unjournaled(verb) for verb in asked if not verb.done)]
        form = {
            **_facts(resource, shown),
            "started_with": started_with,
            "context": past.instance.context,
            "timeline": [line.form() for line in sorted(lines, key=lambda line: line.at_ms)],
        }
        return Archived(shown.state, orjson.dumps(form), None)
    except (MartyError, LookupError, ValueError) as error:
        # One instance that a fault of ours made unreadable must not end the archive of the others, nor be lost.
        raw = {
            **_facts(resource, shown),
            "unreadable": str(error),
            "input_base64": base64.b64encode(shown.context).decode(),
            "journal_base64": [base64.b64encode(entry).decode() for entry in shown.entries],
        }
        return Archived(shown.state, orjson.dumps(raw), str(error))


async def _learn(
    conn: Connection, resource: str, revisions: Collection[str], definitions: dict[str, Definition]
) -> None:
    if missing := set(revisions) - definitions.keys():
        stored = await saga_instance.definitions(conn, resource, sorted(missing))
        definitions.update({revision: load(form) for revision, form in stored.items()})


def _facts(resource: str, shown: Shown) -> Mapping[str, object]:
    return {
        "saga": resource,
        "saga_id": str(shown.id),
        "business_key": shown.business_key,
        "state": shown.state,
        "error": shown.error,
        "started_at": shown.started_at.isoformat(),
        "ended_at": shown.ended_at.isoformat() if shown.ended_at else None,
        "revision": shown.revision,
    }
