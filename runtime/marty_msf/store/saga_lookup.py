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
SELECT d.definition
  FROM marty.saga_instance AS i
  JOIN marty.saga_definition AS d ON d.resource = i.resource AND d.revision = i.revision
 WHERE i.resource = $1 AND i.id = $2
"""


async def definition(conn: Connection, resource: str, instance: UUID) -> bytes | None:
    """The definition that an instance follows; None when there is no such instance."""
    found: bytes | None = await conn.fetchval(DEFINITION, resource, instance)
    return found
