"""Starting saga instances, idempotently by business key. Callers own the transaction."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from asyncpg import Connection
from asyncpg.pgproto import pgproto

from marty_msf.core.value import value
from marty_msf.store.saga_wave import by_lane

#: Counter slots of those who start: beyond the lanes, see marty.saga_counter.
SLOTS: Final = range(64, 128)


def instance_id(raw: bytes) -> UUID:
    """The id with these bytes, as the driver reads ids too: made and turned into text in a tenth of the standard one's time."""
    made: UUID = pgproto.UUID(raw)
    return made


@value
class New:
    """An instance to start; business keys are distinct within one call."""

    id: UUID
    business_key: str
    context: bytes
    #: First journal entry; None leaves the instance Pending for the owner of its lane.
    entry: bytes | None
    #: Of the W3C trace that the start belongs to.
    traceparent: str | None = None


@value
class Placed:
    """What became of a New."""

    id: UUID
    created: bool
    lane: int
    #: Written as Running, with its first entry, under a lease of ours.
    running: bool


# The leases are locked first, everywhere: a key that another transaction is inserting makes us wait, and whoever waits
# while holding a lease's share must not be waited for by a renewal that somebody else waits for.
# An instance is written as Running only in a lane whose lease is still ours, which the lock keeps so until the commit.
START: Final = """
WITH asked AS MATERIALIZED (
    SELECT a.id, a.business_key, a.context, a.entry, a.traceparent, marty.lane_of(a.id::text) AS lane
      FROM unnest($4::uuid[], $5::text[], $6::bytea[], $7::bytea[], $11::text[])
           AS a (id, business_key, context, entry, traceparent)
), held AS MATERIALIZED (
    SELECT l.lane
      FROM marty.lease AS l
     WHERE l.scope = $2 AND l.holder = $3 AND l.epoch = ($8::text::bigint[])[l.lane + 1]
       AND l.lane = ANY (ARRAY(SELECT lane FROM asked))
     ORDER BY l.lane FOR SHARE OF l
), mask AS MATERIALIZED (
    SELECT coalesce(bit_or(1::bigint << lane), 0) AS lanes FROM held
), keyed AS (
    INSERT INTO marty.saga_key (resource, business_key, id)
    SELECT $1, business_key, id FROM asked WHERE (SELECT lanes FROM mask) IS NOT NULL ORDER BY business_key
    ON CONFLICT (resource, business_key) DO NOTHING
    RETURNING id
), fresh AS MATERIALIZED (
    SELECT a.*, a.entry IS NOT NULL AND ((SELECT lanes FROM mask) >> a.lane) & 1 = 1 AS running
      FROM asked AS a JOIN keyed USING (id)
), inserted AS (
    INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state)
    SELECT id, $1, lane, $9, business_key, CASE WHEN running THEN 'Running' ELSE 'Pending' END FROM fresh
), remembered AS (
    INSERT INTO marty.saga_input (id, context, traceparent) SELECT id, context, traceparent FROM fresh
), journaled AS (
    INSERT INTO marty.saga_journal (id, seq, entry) SELECT id, 1, entry FROM fresh WHERE running
), counted AS (
    INSERT INTO marty.saga_counter AS c (resource, slot, started)
    SELECT $1, $10, count(*) FROM fresh HAVING count(*) > 0
    ON CONFLICT (resource, slot) DO UPDATE SET started = c.started + excluded.started
)
SELECT a.business_key, a.lane, f.id IS NOT NULL AS created, coalesce(f.running, false) AS running,
       CASE WHEN f.id IS NOT NULL THEN f.id
            ELSE (SELECT k.id FROM marty.saga_key AS k WHERE k.resource = $1 AND k.business_key = a.business_key) END AS id
  FROM asked AS a LEFT JOIN fresh AS f USING (id)
"""

# A key waits for whoever is inserting it to commit, who may be anybody's transaction and as slow as a person.
PATIENT: Final = "SET lock_timeout = '2s'"
PATIENT_WITHIN: Final = "SET LOCAL lock_timeout = '2s'"
IMPATIENT: Final = "SET lock_timeout = '50ms'"
AS_USUAL: Final = "RESET lock_timeout"

EXISTING: Final = """
SELECT id FROM marty.saga_key WHERE resource = $1 AND business_key = $2
"""


async def start(
    conn: Connection,
    resource: str,
    revision: str,
    instances: Sequence[New],
    *,
    scope: str,
    holder: str,
    epochs: Mapping[int, int],
    slot: int,
) -> Mapping[str, Placed]:
    """Start what does not exist yet; by business key what became of each. One statement, one round trip.

    `epochs` are the lanes the caller owns. A caller that goes on with the Running ones does so after its commit.
    """
    rows = await conn.fetch(
        START,
        resource,
        scope,
        holder,
        [new.id for new in instances],
        [new.business_key for new in instances],
        [new.context for new in instances],
        [new.entry for new in instances],
        by_lane(epochs),
        revision,
        slot,
        # `unnest` fills up with NULL.
        [new.traceparent for new in instances] if any(new.traceparent for new in instances) else [],
    )
    placed: dict[str, Placed] = {}
    for key, lane, created, running, found in rows:
        # Inserted by a transaction that committed after this statement began: a new statement sees it.
        instance = found or await conn.fetchval(EXISTING, resource, key)
        placed[key] = Placed(instance, created, lane, running)
    return placed


async def wait_shortly(conn: Connection) -> None:
    """From now on a start waits for a foreign transaction for two seconds, shorter than any lease."""
    await conn.execute(PATIENT)


async def wait_shortly_within(conn: Connection) -> None:
    """The same for the transaction that is open."""
    await conn.execute(PATIENT_WITHIN)


async def wait_hardly(conn: Connection) -> None:
    """From now on a start waits for a foreign transaction for 50 milliseconds."""
    await conn.execute(IMPATIENT)


async def wait_as_usual(conn: Connection) -> None:
    """Take the other waits back."""
    await conn.execute(AS_USUAL)
