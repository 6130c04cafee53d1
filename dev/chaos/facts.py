"""What a run left behind, read from the tables when all is quiet."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from dev.chaos.ledger import Calls, Entry
from dev.chaos.plan import RESOURCE
from marty_msf.core.saga.definition import Definition, load
from marty_msf.core.saga.instance import Call, Instance, State
from marty_msf.core.saga.journal import decode
from marty_msf.core.saga.machine import advance

PAGE: Final = 1000
_FIRST: Final = UUID(int=0)

ENDED: Final = """
SELECT count(*) FROM marty.saga_instance
 WHERE resource = $1 AND state IN ('Completed', 'Compensated', 'Failed', 'Cancelled', 'Parked')
"""

INSTANCES: Final = """
SELECT i.id, i.business_key, i.state, i.error, i.revision,
       (SELECT s.context FROM marty.saga_input AS s WHERE s.id = i.id),
       ARRAY(SELECT j.entry FROM marty.saga_journal AS j WHERE j.id = i.id ORDER BY j.seq)
  FROM marty.saga_instance AS i WHERE i.resource = $1 AND i.id > $2 ORDER BY i.id LIMIT $3
"""

COUNTERS: Final = """
SELECT sum(started)::bigint, sum(completed)::bigint, sum(compensated)::bigint, sum(failed)::bigint,
       sum(cancelled)::bigint, sum(parked)::bigint
  FROM marty.saga_counter WHERE resource = $1
"""

KEPT: Final = """
SELECT (SELECT count(*) FROM marty.lease WHERE scope = 'saga:' || $1 AND holder IS NOT NULL),
       (SELECT count(*) FROM marty.saga_lock)
"""

HOLDERS: Final = "SELECT DISTINCT holder FROM marty.lease WHERE scope = 'saga:' || $1 AND holder IS NOT NULL"

DEFINITIONS: Final = "SELECT revision, definition FROM marty.saga_definition WHERE resource = $1"


@dataclass(frozen=True, slots=True)
class Ended:
    """One instance, as its row and its journal tell it."""

    id: str
    business_key: str
    state: str
    error: str | None
    #: The state that the journal leads to.
    folded: str
    #: Steps in the order in which they completed (or may have), as they were when the first undo began; else empty.
    completed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the checks look at."""

    instances: Sequence[Ended]
    entries: Sequence[Entry]
    calls: Calls
    #: Business key to the ids that customers were told.
    acknowledged: Mapping[str, frozenset[str]]
    #: started, completed, compensated, failed, cancelled, parked: from the counter rows.
    counters: tuple[int, ...]
    #: Lanes and semantic locks that somebody still had when all was over and both workers had gone in good order.
    lanes_kept: int
    locks_kept: int
    kills: int
    restarts: int
    #: Workers that ended although nobody killed them, and errors that they logged.
    crashes: Sequence[str]
    errors: Sequence[str]


async def ended(conn: asyncpg.Connection) -> int:
    """Instances with nothing left to do."""
    return int(await conn.fetchval(ENDED, RESOURCE))


async def counters(conn: asyncpg.Connection) -> tuple[int, ...]:
    """See Facts.counters."""
    return tuple(int(number or 0) for number in await conn.fetchrow(COUNTERS, RESOURCE))


async def holders(conn: asyncpg.Connection) -> set[str]:
    """Who owns lanes, dead workers included whose leases nobody took over yet."""
    return {row[0] for row in await conn.fetch(HOLDERS, RESOURCE)}


async def kept(conn: asyncpg.Connection) -> tuple[int, int]:
    """See Facts: lanes, locks."""
    lanes, locks = await conn.fetchrow(KEPT, RESOURCE)
    return lanes, locks


async def instances(conn: asyncpg.Connection) -> list[Ended]:
    """All instances of the saga."""
    known = {row[0]: load(row[1]) for row in await conn.fetch(DEFINITIONS, RESOURCE)}
    return [
        replayed(known[revision], str(id_), key, state, error, orjson.loads(context), entries)
        async for id_, key, state, error, revision, context, entries in _rows(conn)
    ]


async def _rows(conn: asyncpg.Connection) -> AsyncIterator[asyncpg.Record]:
    after = _FIRST
    while page := await conn.fetch(INSTANCES, RESOURCE, after, PAGE):
        for row in page:
            yield row
        after = page[-1][0]


def replayed(
    definition: Definition,
    id_: str,
    key: str,
    state: str,
    error: str | None,
    context: Mapping[str, object],
    entries: Sequence[bytes],
) -> Ended:
    """Follow the journal to its end."""
    instance, completed = Instance(context), None
    for entry in entries:
        now_ms, event, _ = decode(entry)
        instance, commands = advance(definition, instance, event, now_ms)
        if completed is None and any(isinstance(it, Call) and it.undo for it in commands):
            completed = tuple(definition.steps[it.step].name for it in instance.happened)
    folded = instance.state if entries else State.PENDING
    return Ended(id_, key, state, error, folded.value, completed or ())
