"""Single facts about saga instances, for the library. Callers own the transaction."""

from typing import Final
from uuid import UUID

from asyncpg import Connection

STATE: Final = """
SELECT state FROM marty.saga_instance WHERE resource = $1 AND id = $2
"""


async def state(conn: Connection, resource: str, instance: UUID) -> str | None:
    """None when this saga has no such instance."""
    found: str | None = await conn.fetchval(STATE, resource, instance)
    return found


DEFINITION: Final = """
SELECT i.revision, d.definition
  FROM marty.saga_instance AS i
  JOIN marty.saga_definition AS d ON d.resource = i.resource AND d.revision = i.revision
 WHERE i.resource = $1 AND i.id = $2
"""


async def definition(conn: Connection, resource: str, instance: UUID) -> tuple[str, bytes] | None:
    """The revision that an instance follows, and its definition."""
    row = await conn.fetchrow(DEFINITION, resource, instance)
    return (row[0], row[1]) if row else None
