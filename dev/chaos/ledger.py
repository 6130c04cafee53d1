"""What the service remembers, in a database of its own: every key with its answer, and everything that took effect."""

from dataclasses import dataclass
from typing import Final

import asyncpg

#: `perform` does one call in one transaction, as a careful service does: a known key gets its stored answer; an undo
#: before its do leaves a tombstone (an entry that changes nothing); a do behind it is refused.
INSTALL: Final = """
CREATE SCHEMA ledger;
CREATE TABLE ledger.call (
    key         text PRIMARY KEY,
    status      smallint NOT NULL,
    digest      bytea    NOT NULL,
    times       integer  NOT NULL DEFAULT 1,
    other_bytes integer  NOT NULL DEFAULT 0,
    too_late    boolean  NOT NULL
);
CREATE TABLE ledger.entry (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga     text     NOT NULL,
    step     text     NOT NULL,
    change   smallint NOT NULL CHECK (change IN (1, 0, -1))
);
CREATE INDEX ON ledger.entry (saga, step);
CREATE FUNCTION ledger.perform(p_key text, p_saga text, p_step text, p_undo boolean, p_refuse boolean, p_digest bytea)
RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    v_status   smallint;
    v_balance  bigint;
    v_undone   boolean;
    v_too_late boolean := false;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_saga || ':' || p_step, 0));
    UPDATE ledger.call SET times = times + 1, other_bytes = other_bytes + (digest <> p_digest)::int
     WHERE key = p_key RETURNING status INTO v_status;
    IF FOUND THEN
        RETURN v_status;
    END IF;
    SELECT coalesce(sum(change), 0), coalesce(bool_or(change = 0), false) INTO v_balance, v_undone
      FROM ledger.entry WHERE saga = p_saga AND step = p_step;
    IF p_undo THEN
        v_status := 200;
        INSERT INTO ledger.entry (saga, step, change) VALUES (p_saga, p_step, CASE WHEN v_balance > 0 THEN -1 ELSE 0 END);
    ELSIF p_refuse OR v_undone THEN
        v_status := 422;
        v_too_late := v_undone;
    ELSE
        v_status := 200;
        INSERT INTO ledger.entry (saga, step, change) VALUES (p_saga, p_step, 1);
    END IF;
    INSERT INTO ledger.call (key, status, digest, too_late) VALUES (p_key, v_status, p_digest, v_too_late);
    RETURN v_status;
END
$$;
"""

PERFORM: Final = "SELECT ledger.perform($1, $2, $3, $4, $5, $6)"

ENTRIES: Final = "SELECT saga, step, change FROM ledger.entry ORDER BY sequence"

CALLS: Final = """
SELECT count(*) AS keys, coalesce(sum(times), 0)::bigint AS calls, coalesce(sum(other_bytes), 0)::bigint AS other_bytes,
       count(*) FILTER (WHERE too_late) AS too_late
  FROM ledger.call
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A step that took effect (1), was undone (-1), or whose undo came first (0). In the order in which they did."""

    saga: str
    step: str
    change: int


@dataclass(frozen=True, slots=True)
class Calls:
    """What reached the ledger: different keys, all calls, those of a known key with other bytes, dos behind their undo."""

    keys: int
    calls: int
    other_bytes: int
    too_late: int


async def install(conn: asyncpg.Connection) -> None:
    """Into an empty database."""
    await conn.execute(INSTALL)


async def entries(conn: asyncpg.Connection) -> list[Entry]:
    """All of them, oldest first."""
    return [Entry(*row) for row in await conn.fetch(ENTRIES)]


async def calls(conn: asyncpg.Connection) -> Calls:
    """Totals."""
    return Calls(*await conn.fetchrow(CALLS))
