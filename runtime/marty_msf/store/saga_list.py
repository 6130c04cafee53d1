"""Finding saga instances for people: by filters, page by page, and by the beginning and end of an id."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.saga.selection import Selection


@dataclass(frozen=True, slots=True)
class Listed:
    """One instance; its context and journal only while it is not ended. The journal is without request bodies."""

    id: UUID
    resource: str
    business_key: str
    state: str
    error: str | None
    started_at: datetime
    ended_at: datetime | None
    revision: str
    context: bytes | None
    entries: Sequence[bytes]


# The first line of an entry is all that a fold needs: bodies are the bulk of a journal.
LIST: Final = """
SELECT i.id, i.resource, i.business_key, i.state, i.error, i.started_at, i.ended_at, i.revision,
       CASE WHEN i.ended_at IS NULL THEN (SELECT s.context FROM marty.saga_input AS s WHERE s.id = i.id) END,
       CASE WHEN i.ended_at IS NULL THEN ARRAY(
           SELECT substring(j.entry FROM 1 FOR position('\\x0a'::bytea IN j.entry))
             FROM marty.saga_journal AS j WHERE j.id = i.id ORDER BY j.seq) ELSE '{}' END
  FROM marty.saga_instance AS i
 WHERE ($1::text[] IS NULL OR i.resource = ANY($1))
   AND ($2::text[] IS NULL OR i.state = ANY($2))
   AND ($3::uuid IS NULL OR i.id >= $3)
   AND ($4::uuid IS NULL OR i.id < $4)
   AND ($5::text IS NULL OR i.business_key LIKE $5)
   AND ($6::text IS NULL OR position(lower($6) IN lower(i.error)) > 0)
   AND ($7::text IS NULL OR i.revision = $7)
 ORDER BY i.id DESC
 LIMIT $8
"""


async def page(conn: Connection, resources: Sequence[str] | None, chosen: Selection, limit: int) -> list[Listed]:
    """The newest instances of these sagas (all of them for None), newest first. `chosen.step` does not count here."""
    rows = await conn.fetch(
        LIST,
        resources,
        chosen.states,
        chosen.from_id,
        chosen.below_id,
        chosen.key,
        chosen.error,
        chosen.revision,
        limit,
    )
    return [Listed(*row) for row in rows]


FIND: Final = """
SELECT i.id, i.resource
  FROM marty.saga_instance AS i
 WHERE i.id BETWEEN $1 AND $2
   AND right(replace(i.id::text, '-', ''), length($3)) = $3
   AND ($4::text[] IS NULL OR i.resource = ANY($4))
 ORDER BY i.id
 LIMIT $5
"""


async def find(
    conn: Connection, first: UUID, last: UUID, ending: str, resources: Sequence[str] | None, limit: int
) -> list[tuple[UUID, str]]:
    """Id and resource of the instances between two ids whose hex digits end so."""
    return [(row[0], row[1]) for row in await conn.fetch(FIND, first, last, ending, resources, limit)]


RESOURCES: Final = """
SELECT DISTINCT resource FROM marty.saga_definition ORDER BY resource
"""


async def resources(conn: Connection) -> list[str]:
    """Every saga that ever ran on this database, as `namespace/name`."""
    return [row[0] for row in await conn.fetch(RESOURCES)]


REVISION: Final = """
SELECT revision FROM marty.saga_type WHERE resource = $1
"""


async def present_revision(conn: Connection, resource: str) -> str | None:
    """The definition that new instances follow; None for a saga that never ran here."""
    revision: str | None = await conn.fetchval(REVISION, resource)
    return revision
