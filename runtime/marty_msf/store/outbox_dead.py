"""Reading dead letters: their causes, pages of them, one with what waits behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from asyncpg import Connection

from marty_msf.core.outbox.dead_letters import Choice

#: Events behind a dead letter are counted up to here.
BEHIND_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Group:
    """The dead letters of one cause."""

    cause: str
    error_type: str
    topic: str
    event_type: str
    message: str
    dead: int
    #: Ever, those included that were redriven or discarded.
    dead_total: int
    #: The newest one's id.
    sample: int | None
    first_at: datetime
    last_at: datetime


GROUPS: Final = """
SELECT c.cause, c.error_type, c.topic, c.event_type, c.message, c.dead, c.dead_total,
       (SELECT max(h.id) FROM marty.outbox_held AS h WHERE h.cause = c.cause AND h.state = 'Dead'),
       c.first_at, c.last_at
  FROM marty.outbox_cause AS c
 WHERE c.dead > 0
 ORDER BY c.dead DESC, c.last_at DESC, c.cause
 LIMIT $1
"""


async def groups(conn: Connection, limit: int) -> list[Group]:
    """The causes that dead letters have now, the most frequent first."""
    return [Group(*row) for row in await conn.fetch(GROUPS, limit)]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter in a list."""

    id: int
    cause: str | None
    error: str | None
    topic: str
    event_type: str
    aggregate_type: str
    aggregate_id: str | None
    attempts: int
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    created_at: datetime
    in_order: bool


# Times of rows that never failed (put aside by hand) are those of their arrival here.
LIST: Final = """
SELECT id, cause, error, topic, event_type, aggregate_type, aggregate_id, attempts, first_failed_at, last_failed_at,
       created_at, in_order
  FROM marty.outbox_held
 WHERE state = 'Dead' AND id < $8
   AND ($1::bigint[] IS NULL OR id = ANY($1))
   AND ($2::text IS NULL OR cause = $2)
   AND ($3::text IS NULL OR topic = $3)
   AND ($4::text IS NULL OR event_type = $4)
   AND ($5::text IS NULL OR aggregate_id = $5)
   AND ($6::timestamptz IS NULL OR coalesce(last_failed_at, held_at) >= $6)
   AND ($7::timestamptz IS NULL OR coalesce(last_failed_at, held_at) < $7)
 ORDER BY id DESC
 LIMIT $9
"""


async def page(conn: Connection, chosen: Choice, below: int, limit: int) -> list[Letter]:
    """Up to `limit` of the chosen dead letters with an id below `below`, the newest first."""
    return [Letter(*row) for row in await conn.fetch(LIST, *arguments(chosen), below, limit)]


COUNT: Final = """
SELECT count(*), count(DISTINCT aggregate_id)
  FROM marty.outbox_held
 WHERE state = 'Dead'
   AND ($1::bigint[] IS NULL OR id = ANY($1))
   AND ($2::text IS NULL OR cause = $2)
   AND ($3::text IS NULL OR topic = $3)
   AND ($4::text IS NULL OR event_type = $4)
   AND ($5::text IS NULL OR aggregate_id = $5)
   AND ($6::timestamptz IS NULL OR coalesce(last_failed_at, held_at) >= $6)
   AND ($7::timestamptz IS NULL OR coalesce(last_failed_at, held_at) < $7)
"""


async def count(conn: Connection, chosen: Choice) -> tuple[int, int]:
    """The chosen dead letters, and their aggregates."""
    row = await conn.fetchrow(COUNT, *arguments(chosen))
    return row[0], row[1]


def arguments(chosen: Choice) -> tuple[Any, ...]:
    """$1 to $7 of the statements that choose."""
    return (
        None if chosen.ids is None else list(chosen.ids),
        chosen.cause,
        chosen.topic,
        chosen.event_type,
        chosen.aggregate_id,
        chosen.since,
        chosen.until,
    )


@dataclass(frozen=True, slots=True)
class Whole:
    """A held event with all its columns."""

    id: int
    lane: int
    state: str
    in_order: bool
    due_at: datetime | None
    attempts: int
    cause: str | None
    error: str | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    #: Whether the dead-letter topic has it, and why it does not take it.
    copied: bool
    copy_error: str | None
    held_at: datetime
    created_at: datetime
    event_id: UUID
    topic: str
    event_type: str
    aggregate_type: str
    aggregate_id: str | None
    payload: bytes
    #: A JSON object as text.
    headers: str | None
    priority: int
    max_attempts: int | None
    deliver_after: datetime | None
    message_key: str | None

    @property
    def own_headers(self) -> Mapping[str, str]:
        """The headers that were given with the event."""
        found: Mapping[str, str] = orjson.loads(self.headers) if self.headers else {}
        return found


#: A time as far away as a datetime can be: writers may give any that Postgres knows.
_SHOWABLE: Final = "CASE WHEN {0} IS NOT NULL THEN greatest(least({0}, '9999-01-01Z'), '0002-01-01Z') END AS {0}"

SHOW: Final = f"""
SELECT id, lane, state, in_order, {_SHOWABLE.format("due_at")}, attempts, cause, error, first_failed_at, last_failed_at, copied, copy_error,
       held_at, created_at, event_id, topic, event_type, aggregate_type, aggregate_id, payload, headers, priority, max_attempts,
       {_SHOWABLE.format("deliver_after")}, message_key
  FROM marty.outbox_held
 WHERE id = $1
"""  # noqa: S608  # constants only


async def show(conn: Connection, number: int) -> Whole | None:
    """One held event, dead or not; None when it is not held."""
    row = await conn.fetchrow(SHOW, number)
    return Whole(*row) if row else None


BEHIND: Final = """
SELECT count(*), min(id)
  FROM (SELECT id FROM marty.outbox_held
         WHERE in_order AND aggregate_id = $1 AND id > $2 ORDER BY id LIMIT $3) AS behind
"""


async def behind(conn: Connection, it: Whole) -> tuple[int, int | None]:
    """How many events of its aggregate wait for it (counted up to BEHIND_LIMIT), and the first one's id."""
    if it.aggregate_id is None or not it.in_order:
        return 0, None
    row = await conn.fetchrow(BEHIND, it.aggregate_id, it.id, BEHIND_LIMIT)
    return row[0], row[1]


STATES: Final = f"""
SELECT id, state, {_SHOWABLE.format("due_at")} FROM marty.outbox_held WHERE id = ANY($1::bigint[]) AND state <> 'Dead'
"""  # noqa: S608  # constants only


async def alive(conn: Connection, ids: Sequence[int]) -> dict[int, tuple[str, datetime | None]]:
    """State and time of those of these events that are held and not dead."""
    return {row[0]: (row[1], row[2]) for row in await conn.fetch(STATES, list(ids))}


DEAD: Final = """
SELECT id FROM marty.outbox_held WHERE id = ANY($1::bigint[]) AND state = 'Dead' ORDER BY id
"""


async def dead_among(conn: Connection, ids: Sequence[int]) -> list[int]:
    """Those of these events that are dead."""
    return [row[0] for row in await conn.fetch(DEAD, list(ids))]


NOW: Final = """
SELECT clock_timestamp()
"""


async def now(conn: Connection) -> datetime:
    """The database's clock, which the times of failures are of."""
    moment: datetime = await conn.fetchval(NOW)
    return moment


NUMBERS: Final = """
SELECT coalesce(sum(published_total), 0)::bigint, coalesce(sum(failed_total), 0)::bigint, coalesce(sum(held), 0)::bigint,
       coalesce(sum(dead), 0)::bigint, coalesce(sum(dead_total), 0)::bigint,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - greatest(h.created_at, h.deliver_after))
                   FROM marty.outbox_held AS h
                  WHERE h.state IN ('Waiting', 'Retrying') AND (h.deliver_after <= clock_timestamp()) IS NOT FALSE
                  ORDER BY h.id LIMIT 1), 0)::float8
  FROM marty.outbox_position
"""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Counters of the whole outbox."""

    published_total: int
    failed_total: int
    #: Rows that are held and not dead.
    held: int
    dead: int
    dead_total: int
    #: How long the oldest of the held ones that might be sent has been waiting, in seconds; 0 without any.
    oldest_held_seconds: float


async def numbers(conn: Connection) -> Numbers:
    """From the counters beside the position, and one look at the held events."""
    return Numbers(*await conn.fetchrow(NUMBERS))
