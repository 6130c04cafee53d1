"""An application's own outbox table as a source of events, see schema/0024_outbox_mapping.sql."""

from collections.abc import Sequence
from typing import Final

import orjson
from asyncpg import Connection

from marty_msf.core.outbox.mapping import Column, Found
from marty_msf.core.resources.outbox_source import Source

TABLE: Final = """
SELECT c.oid, c.relkind::text AS kind, pg_get_userbyid(c.relowner)::text AS owner, pg_get_userbyid(m.proowner)::text AS maker,
       has_schema_privilege(m.proowner, c.relnamespace, 'USAGE') AS may_use,
       has_table_privilege(m.proowner, c.oid, 'TRIGGER') AS may_trigger,
       EXISTS (SELECT FROM pg_trigger AS t
                WHERE t.tgrelid = c.oid AND t.tgname = 'marty_outbox' AND t.tgenabled = 'D') AS disabled
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_proc AS m ON m.oid = 'marty.map_outbox_table(jsonb, boolean)'::regprocedure
 WHERE n.nspname = $1 AND c.relname = $2
"""

COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), b.typname, b.typcategory IN ('S', 'E')
  FROM pg_attribute AS a
  JOIN pg_type AS t ON t.oid = a.atttypid
  JOIN pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
"""


async def look(conn: Connection, source: Source) -> Found | None:
    """The table that a mapping names; None when it is not there."""
    row = await conn.fetchrow(TABLE, *source.table.split("."))
    if row is None:
        return None
    columns = {name: Column(*rest) for name, *rest in await conn.fetch(COLUMNS, row["oid"])}
    return Found(columns=columns, **{name: value for name, value in row.items() if name != "oid"})


MAP: Final = """
SELECT marty.map_outbox_table($1::text::jsonb, $2)
"""


async def install(conn: Connection, source: Source | None, *, replace: bool) -> Sequence[str]:
    """Let the trigger be as `source` says, or away. One transaction of its own.

    Without `replace` it is only mended where it was installed as `source` says, not changed. Returns tables whose trigger
    may not be removed; it does nothing any more. Raises asyncpg.LockNotAvailableError when the table is in use.
    """
    text = None
    if source is not None:
        text = orjson.dumps(source.model_dump(mode="json", by_alias=True, exclude_none=True)).decode()
    left: Sequence[str] = await conn.fetchval(MAP, text, replace)
    return left
