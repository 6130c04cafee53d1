"""Held and dead events put into the tables by hand, with the counters a relay keeps."""

from datetime import UTC, datetime, timedelta

import asyncpg

from marty_msf.core.lanes import LANES
from marty_msf.core.outbox.cause import cause
from marty_msf.store import outbox_position

ERROR = "MessageSizeTooLarge"
NEXT: str = "SELECT coalesce(max(id), 0) + 1 FROM marty.outbox_held"


async def positions(conn: asyncpg.Connection) -> None:
    """The rows of all lanes, as a relay makes them at its start."""
    await outbox_position.load(conn, list(range(LANES)))


async def held(
    conn: asyncpg.Connection,
    *,
    state: str = "Dead",
    aggregate: str | None = "a-1",
    in_order: bool | None = None,
    topic: str = "orders",
    event_type: str = "placed",
    error: str = "message of 2000000 bytes is over 1000000",
    payload: bytes = b'{"n": 1}',
    headers: str | None = None,
    due: bool = False,
    copied: bool = False,
    failed_ago: timedelta = timedelta(minutes=5),
) -> int:
    """One event of the outbox that the cursor has passed and that is held; returns its id."""
    await positions(conn)
    number: int = await conn.fetchval(NEXT)
    dead, why = state == "Dead", cause(ERROR, topic, event_type, error)
    failed_at = datetime.now(UTC) - failed_ago if state in {"Dead", "Retrying"} else None
    lane: int = await conn.fetchval("SELECT marty.lane_of(coalesce($1, 'none'))", aggregate)
    await conn.execute(
        """INSERT INTO marty.outbox_held (id, lane, state, in_order, due_at, attempts, cause, error, first_failed_at,
               last_failed_at, copied, created_at, event_id, topic, event_type, aggregate_type, aggregate_id, payload,
               headers, priority)
           VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN clock_timestamp() END, $6, $7, $8, $9, $9, $10,
                   clock_timestamp() - interval '10 minutes', gen_random_uuid(), $11, $12, 'order', $13, $14, $15, 1)""",
        number,
        lane,
        state,
        aggregate is not None if in_order is None else in_order,
        due,
        5 if failed_at else 0,
        why.fingerprint if failed_at else None,
        error if failed_at else None,
        failed_at,
        copied,
        topic,
        event_type,
        aggregate,
        payload,
        headers,
    )
    if dead:
        await conn.execute(
            """INSERT INTO marty.outbox_cause AS c (cause, error_type, topic, event_type, message, dead, dead_total,
                   sample_id, first_at, last_at) VALUES ($1, $2, $3, $4, $5, 1, 1, $6, $7, $7)
               ON CONFLICT (cause) DO UPDATE SET dead = c.dead + 1, dead_total = c.dead_total + 1,
                   sample_id = excluded.sample_id, last_at = excluded.last_at""",
            why.fingerprint,
            ERROR,
            topic,
            event_type,
            why.message,
            number,
            failed_at,
        )
    await conn.execute(
        """UPDATE marty.outbox_position SET dead = dead + $2, dead_total = dead_total + $2, held = held + 1 - $2
            WHERE lane = $1""",
        lane,
        int(dead),
    )
    return number


async def rows(conn: asyncpg.Connection) -> dict[int, tuple[str, bool]]:
    """By id: the state, and whether it has a time to be sent."""
    found = await conn.fetch("SELECT id, state, due_at IS NOT NULL FROM marty.outbox_held ORDER BY id")
    return {row[0]: (row[1], row[2]) for row in found}


async def check_counters(conn: asyncpg.Connection) -> None:
    """The counters are what the rows say."""
    counted = await conn.fetchrow("SELECT sum(held)::int, sum(dead)::int FROM marty.outbox_position")
    there = await conn.fetchrow(
        "SELECT count(*) FILTER (WHERE state <> 'Dead'), count(*) FILTER (WHERE state = 'Dead') FROM marty.outbox_held"
    )
    assert tuple(counted or (0, 0)) == tuple(there)
    wrong = await conn.fetch(
        """SELECT c.cause, c.dead, count(h.id)
             FROM marty.outbox_cause c LEFT JOIN marty.outbox_held h ON h.cause = c.cause AND h.state = 'Dead'
            GROUP BY c.cause, c.dead HAVING c.dead <> count(h.id)"""
    )
    assert wrong == []
