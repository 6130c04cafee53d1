"""Reading ended saga instances in order, page by page. Each page is a statement of its own: no snapshot stays open."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.saga.ended import Ended
from marty_msf.store.saga_instance import Shown

PAGE: Final = """
SELECT i.id, i.business_key, i.state, i.error, i.started_at, i.ended_at, i.revision, d.definition, s.context,
       ARRAY(SELECT j.entry FROM marty.saga_journal AS j WHERE j.id = i.id ORDER BY j.seq), s.traceparent
  FROM (SELECT * FROM marty.saga_instance
         WHERE resource = $1 AND id > $2 AND state = ANY($3::text[]) AND ended_at >= $4 AND ended_at < $5
         ORDER BY id LIMIT $6) AS i
  JOIN marty.saga_definition AS d ON d.resource = i.resource AND d.revision = i.revision
  JOIN marty.saga_input AS s ON s.id = i.id
 ORDER BY i.id
"""


async def page(conn: Connection, resource: str, chosen: Ended, after: UUID, limit: int) -> Sequence[Shown]:
    """Ended instances of this saga behind the id `after`, oldest start first."""
    rows = await conn.fetch(PAGE, resource, after, list(chosen.states), chosen.since, chosen.before, limit)
    return [Shown(*row) for row in rows]
