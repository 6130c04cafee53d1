"""Every statement that touches `marty.inbox` and `marty.inbox_parked`. Callers own the transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
from asyncpg import Connection, Record

from marty_msf.store.session import Executor, schema_told


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whether an event may be handled now."""

    #: False: it was handled before.
    fresh: bool
    #: An earlier event of its key is parked.
    behind: bool


RECORD: Final = """
WITH recorded AS (
    INSERT INTO marty.inbox (consumer, source, event_id) VALUES ($1::text, $2::text, $3::text)
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT EXISTS (SELECT FROM recorded),
       EXISTS (SELECT FROM marty.inbox_parked WHERE consumer = $1 AND md5(key) = md5($4::bytea) AND key = $4::bytea)
"""


async def record(conn: Executor, consumer: str, source: str, event_id: str, key: bytes | None) -> Recorded:
    """Note in the transaction of an event's effects that it is handled; waits for others that handle it now."""
    with schema_told():
        (row,) = await conn.fetch(RECORD, consumer, source, event_id, key)
    return Recorded(*row)


FORGET: Final = "DELETE FROM marty.inbox WHERE consumer = $1 AND source = $2 AND event_id = $3"


async def forget(conn: Connection, consumer: str, source: str, event_id: str) -> None:
    """The event counts as never handled."""
    await conn.execute(FORGET, consumer, source, event_id)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that waits for a person, or behind one that does."""

    source: str
    event_id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Mapping[str, str]
    value: bytes | None
    #: How often its handler failed; 0: it waits behind another event of its key.
    attempts: int
    error: str
    #: None: it is about to be parked.
    parked_at: datetime | None = None


#: Who parks behind others and who takes the last of these away exclude each other: nothing stays behind what is gone.
LOCK_KEY: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1 || encode($2, 'hex'), 11))"

BEHIND: Final = """
SELECT EXISTS (SELECT FROM marty.inbox_parked WHERE consumer = $1 AND md5(key) = md5($2::bytea) AND key = $2)
"""

PARK: Final = """
INSERT INTO marty.inbox_parked
       (consumer, source, event_id, topic, partition, "offset", key, headers, value, attempts, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, $10, $11)
ON CONFLICT DO NOTHING
"""


async def park(conn: Connection, consumer: str, event: Parked) -> bool:
    """Keep an event; False, nothing written, when it was only to wait behind others that are not there any more."""
    if event.key is not None:
        await conn.execute(LOCK_KEY, consumer, event.key)
    if event.attempts == 0 and not await conn.fetchval(BEHIND, consumer, event.key):
        return False
    await conn.execute(
        PARK,
        consumer,
        event.source,
        event.event_id,
        event.topic,
        event.partition,
        event.offset,
        event.key,
        orjson.dumps(dict(event.headers)).decode(),
        event.value,
        event.attempts,
        event.error,
    )
    return True


LIST: Final = """
SELECT source, event_id, topic, partition, "offset", key, headers::text, value, attempts, error, parked_at
  FROM marty.inbox_parked WHERE consumer = $1 ORDER BY number LIMIT $2
"""


async def parked(conn: Connection, consumer: str, limit: int) -> list[Parked]:
    """The oldest parked events of a consumer."""
    return [_parked(row) for row in await conn.fetch(LIST, consumer, limit)]


#: Events without a key are heads of their own.
HEADS: Final = """
SELECT number, key FROM (
    SELECT min(number) AS number, key FROM marty.inbox_parked WHERE consumer = $1 AND key IS NOT NULL GROUP BY key
    UNION ALL
    SELECT number, key FROM marty.inbox_parked WHERE consumer = $1 AND key IS NULL
) AS head
 WHERE $2::bytea IS NULL OR key = $2
 ORDER BY number LIMIT $3
"""


async def heads(conn: Connection, consumer: str, key: bytes | None, limit: int) -> list[tuple[int, bytes | None]]:
    """Number and key of the first parked event of each key (of this key only), oldest first."""
    return [(row[0], row[1]) for row in await conn.fetch(HEADS, consumer, key, limit)]


FIRST: Final = """
SELECT source, event_id, topic, partition, "offset", key, headers::text, value, attempts, error, parked_at
  FROM marty.inbox_parked
 WHERE consumer = $1 AND CASE WHEN $3::bytea IS NULL THEN number = $2 ELSE md5(key) = md5($3) AND key = $3 END
 ORDER BY number LIMIT 1 FOR UPDATE
"""


async def first(conn: Connection, consumer: str, number: int, key: bytes | None) -> Parked | None:
    """The first parked event of a key (without a key: this one), locked together with its key."""
    if key is not None:
        await conn.execute(LOCK_KEY, consumer, key)
    row = await conn.fetchrow(FIRST, consumer, number, key)
    return _parked(row) if row else None


REMOVE: Final = """
DELETE FROM marty.inbox_parked WHERE consumer = $1 AND source = $2 AND event_id = $3
"""


async def remove(conn: Connection, consumer: str, source: str, event_id: str) -> None:
    """The event is parked no longer."""
    await conn.execute(REMOVE, consumer, source, event_id)


FAILED: Final = """
UPDATE marty.inbox_parked SET attempts = attempts + 1, error = $4 WHERE consumer = $1 AND source = $2 AND event_id = $3
"""


async def failed(conn: Connection, consumer: str, source: str, event_id: str, error: str) -> None:
    """Its handler failed once more."""
    await conn.execute(FAILED, consumer, source, event_id, error)


DISCARD: Final = """
WITH gone AS (
    DELETE FROM marty.inbox_parked WHERE consumer = $1 AND event_id = $2 RETURNING source
)
INSERT INTO marty.inbox (consumer, source, event_id) SELECT $1, source, $2 FROM gone ON CONFLICT DO NOTHING
RETURNING 1
"""


async def discard(conn: Connection, consumer: str, event_id: str) -> int:
    """Give parked events up: they count as handled. Returns how many there were."""
    return len(await conn.fetch(DISCARD, consumer, event_id))


COUNT: Final = """
SELECT count(*) FROM (SELECT FROM marty.inbox_parked WHERE consumer = $1 LIMIT $2) AS counted
"""


async def count_parked(conn: Connection, consumer: str, limit: int) -> int:
    """How many events are parked, counted up to `limit`."""
    return int(await conn.fetchval(COUNT, consumer, limit))


PRUNE: Final = """
DELETE FROM marty.inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM marty.inbox
     WHERE consumer = $1 AND handled_at < now() - make_interval(hours => $2::integer) LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING 1
"""


async def prune(conn: Executor, consumer: str, hours: int, limit: int) -> int:
    """Forget up to `limit` events that the consumer handled longer ago; returns how many."""
    with schema_told():
        return len(await conn.fetch(PRUNE, consumer, hours, limit))


def _parked(row: Record) -> Parked:
    source, event_id, topic, partition, offset, key, headers, value, attempts, error, parked_at = row
    return Parked(
        source, event_id, topic, partition, offset, key, orjson.loads(headers), value, attempts, error, parked_at
    )
