"""Events the relay's cursor has passed and that are not published: `marty.outbox_held`, as the relay writes it.

Per aggregate, the row with the lowest id that is in_order is the only one that may be due; the others wait behind it.
Whoever adds, removes, kills or revives rows does it under the locks of `lock`, so that one who adds behind and one who
moves up never miss each other.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncpg import Connection, Record

from marty_msf.core.outbox.attempts import Verdict
from marty_msf.core.outbox.cause import Cause

#: Payloads read at once, in bytes.
READ_BYTES: Final = 4 * 1024 * 1024

LOCK: Final = """
SELECT 1 FROM marty.outbox_position WHERE lane = ANY($1::smallint[]) ORDER BY lane FOR UPDATE
"""


async def lock(conn: Connection, lanes: Collection[int]) -> None:
    """Inside the caller's transaction: nobody else changes held events of these lanes until it ends."""
    await conn.execute(LOCK, sorted(lanes))


LOAD_KEYS: Final = """
SELECT DISTINCT lane, aggregate_id FROM marty.outbox_held WHERE lane = ANY($1::smallint[]) AND in_order
"""

LOAD_COUNTS: Final = """
SELECT lane, held, dead FROM marty.outbox_position WHERE lane = ANY($1::smallint[]) AND (held > 0 OR dead > 0)
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is held of some lanes."""

    #: (lane, aggregate id) whose later events wait.
    keys: Collection[tuple[int, str]]
    #: lane -> rows that are not dead.
    held: Mapping[int, int]
    #: lane -> dead letters.
    dead: Mapping[int, int]


async def load(conn: Connection, lanes: Sequence[int]) -> Loaded:
    """To be asked after the lanes became ours: their former owner can add nothing then."""
    held, dead = await counts(conn, lanes)
    keys = await conn.fetch(LOAD_KEYS, lanes) if held else []
    return Loaded([(row["lane"], row["aggregate_id"]) for row in keys], held, dead)


async def counts(conn: Connection, lanes: Collection[int]) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """lane -> events held that are not dead, and lane -> dead letters, where there are any."""
    rows = await conn.fetch(LOAD_COUNTS, sorted(lanes))
    return {row["lane"]: row["held"] for row in rows}, {row["lane"]: row["dead"] for row in rows}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event is held that Kafka refused."""

    verdict: Verdict
    #: None when causes are not analysed.
    cause: Cause | None
    error_type: str
    error: str


HOLD: Final = """
WITH given AS (
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::boolean[], $4::bigint[], $5::text[], $6::text[])
        AS n (id, attempts, dead, wait_ms, cause, error)
), chosen AS (
    SELECT o.*, n.attempts, n.dead, n.wait_ms, n.cause, n.error,
           o.aggregate_id IS NOT NULL AND NOT (n.dead AND NOT $7) AS in_order
      FROM given n JOIN marty.outbox o ON o.id = n.id
), placed AS (
    SELECT c.*, c.in_order AND (
               count(*) FILTER (WHERE c.in_order) OVER (
                   PARTITION BY c.aggregate_id ORDER BY c.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) > 0
               OR EXISTS (SELECT 1 FROM marty.outbox_held h WHERE h.aggregate_id = c.aggregate_id AND h.in_order)
           ) AS behind
      FROM chosen c
)
INSERT INTO marty.outbox_held (
    id, lane, state, in_order, due_at, attempts, cause, error, first_failed_at, last_failed_at,
    created_at, event_id, topic, event_type, aggregate_type, aggregate_id, payload, headers, priority, max_attempts,
    deliver_after, message_key)
SELECT id, lane,
       CASE WHEN dead THEN 'Dead'
            WHEN attempts > 0 THEN 'Retrying'
            WHEN NOT behind AND deliver_after > clock_timestamp() THEN 'Delayed'
            ELSE 'Waiting' END,
       in_order,
       CASE WHEN dead OR behind THEN NULL
            ELSE greatest(clock_timestamp() + make_interval(secs => wait_ms / 1000.0), deliver_after) END,
       attempts, cause, error,
       CASE WHEN attempts > 0 THEN clock_timestamp() END, CASE WHEN attempts > 0 THEN clock_timestamp() END,
       created_at, event_id, topic, event_type, aggregate_type, aggregate_id, payload, headers, priority, max_attempts,
       deliver_after, message_key
  FROM placed
ON CONFLICT (id) DO NOTHING
RETURNING id, lane, topic, event_type, state, attempts
"""


async def hold(conn: Connection, rows: Mapping[int, Refusal | None], *, dead_block: bool) -> Mapping[int, int]:
    """Inside the caller's transaction, with the lanes locked: take these outbox rows over; lane -> rows added that live.

    A row without a refusal waits for its time, its topic, or behind another one. `dead_block`: whether dead letters hold
    the later events of their aggregate.
    """
    ids = sorted(rows)
    found = [rows[id_] for id_ in ids]
    added = await conn.fetch(
        HOLD,
        ids,
        [refusal.verdict.attempts if refusal else 0 for refusal in found],
        [refusal.verdict.dead if refusal else False for refusal in found],
        [refusal.verdict.wait_ms if refusal else 0 for refusal in found],
        [refusal.cause.fingerprint if refusal and refusal.cause else None for refusal in found],
        [refusal.error if refusal else None for refusal in found],
        dead_block,
    )
    changes = _Changes()
    for row in added:
        dead = row["state"] == "Dead"
        changes.add(row["lane"], held=not dead, dead=dead, failed=row["attempts"] > 0, died=dead)
        refusal = rows[row["id"]]
        if dead and refusal:
            await _count_cause(conn, row, refusal)
    await changes.write(conn)
    return changes.held


DUE: Final = """
WITH heads AS MATERIALIZED (
    SELECT id, aggregate_id, in_order FROM marty.outbox_held
     WHERE due_at <= clock_timestamp() AND lane = ANY($1::smallint[]) AND NOT (topic = ANY($5::text[]))
     ORDER BY due_at LIMIT $2
), chained AS MATERIALIZED (
    SELECT h.* FROM heads JOIN marty.outbox_held h ON h.id = heads.id
    UNION ALL
    SELECT behind.* FROM heads CROSS JOIN LATERAL (
        SELECT * FROM marty.outbox_held h
         WHERE heads.in_order AND h.aggregate_id = heads.aggregate_id AND h.id > heads.id AND h.in_order
         ORDER BY h.id LIMIT $3) AS behind
)
SELECT id, lane, event_id::text AS event_id, topic, event_type, aggregate_type, aggregate_id, payload,
       headers, (date_part('epoch', created_at) * 1000000)::bigint AS time,
       CASE WHEN message_key IS NULL THEN NULL ELSE jsonb_build_object('key', message_key)::text END AS extras,
       state, in_order, attempts, max_attempts, deliver_after > clock_timestamp() AS delayed, due_at IS NOT NULL AS first
  FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) AS bytes FROM chained) AS measured
 WHERE bytes - octet_length(payload) < $4::bigint
 ORDER BY id
"""


async def due(
    conn: Connection, lanes: Collection[int], missing: Collection[str], heads: int, chain: int
) -> Sequence[Record]:
    """What is to be sent now, and what waits right behind it, by id: the first columns are an outbox row's.

    Not what waits for one of the `missing` topics.
    """
    rows: Sequence[Record] = await conn.fetch(DUE, sorted(lanes), heads, chain, READ_BYTES, list(missing))
    return rows


REMOVE: Final = """
DELETE FROM marty.outbox_held WHERE id = ANY($1::bigint[]) AND state <> 'Dead' RETURNING lane, aggregate_id, in_order
"""

REFUSE: Final = """
UPDATE marty.outbox_held AS h
   SET attempts = n.attempts, cause = n.cause, error = n.error,
       state = CASE WHEN n.dead THEN 'Dead' ELSE 'Retrying' END,
       in_order = h.in_order AND NOT (n.dead AND NOT $7),
       due_at = CASE WHEN n.dead THEN NULL ELSE clock_timestamp() + make_interval(secs => n.wait_ms / 1000.0) END,
       first_failed_at = coalesce(h.first_failed_at, clock_timestamp()), last_failed_at = clock_timestamp()
  FROM unnest($1::bigint[], $2::integer[], $3::boolean[], $4::bigint[], $5::text[], $6::text[])
    AS n (id, attempts, dead, wait_ms, cause, error)
 WHERE h.id = n.id AND h.state <> 'Dead'
RETURNING h.id, h.lane, h.aggregate_id, h.topic, h.event_type, h.state
"""

MOVE_UP: Final = """
UPDATE marty.outbox_held AS h
   SET due_at = greatest(clock_timestamp(), h.deliver_after),
       state = CASE WHEN h.deliver_after > clock_timestamp() THEN 'Delayed' ELSE 'Waiting' END
  FROM (SELECT DISTINCT ON (aggregate_id) id FROM marty.outbox_held
         WHERE aggregate_id = ANY($1::text[]) AND in_order ORDER BY aggregate_id, id) AS first
 WHERE h.id = first.id AND h.due_at IS NULL AND h.state <> 'Dead'
"""

STILL_HELD: Final = """
SELECT DISTINCT aggregate_id FROM marty.outbox_held WHERE aggregate_id = ANY($1::text[]) AND in_order
"""


@dataclass(frozen=True, slots=True)
class Settled:
    """What `settle` left behind."""

    #: Aggregates none of whose events are held in order any more.
    free: Collection[tuple[int, str]]
    #: lane -> change of the number of rows that live.
    held: Mapping[int, int]
    #: lane -> change of the number of dead letters.
    dead: Mapping[int, int]
    published: int


async def settle(
    conn: Connection,
    sent: Collection[int],
    refused: Mapping[int, Refusal],
    *,
    dead_block: bool,
) -> Settled:
    """Inside the caller's fenced transaction, with the lanes locked: write what became of due events."""
    changes = _Changes()
    touched: dict[str, int] = {}
    for row in await conn.fetch(REMOVE, list(sent)):
        changes.add(row["lane"], held=-1, published=1)
        if row["in_order"]:
            touched[row["aggregate_id"]] = row["lane"]
    ids = sorted(refused)
    found = [refused[id_] for id_ in ids]
    answers = (
        await conn.fetch(
            REFUSE,
            ids,
            [refusal.verdict.attempts for refusal in found],
            [refusal.verdict.dead for refusal in found],
            [refusal.verdict.wait_ms for refusal in found],
            [refusal.cause.fingerprint if refusal.cause else None for refusal in found],
            [refusal.error for refusal in found],
            dead_block,
        )
        if ids
        else []
    )
    for row in answers:
        dead = row["state"] == "Dead"
        changes.add(row["lane"], held=-dead, dead=dead, failed=1, died=dead)
        if dead:
            await _count_cause(conn, row, refused[row["id"]])
            if row["aggregate_id"] is not None:
                touched[row["aggregate_id"]] = row["lane"]
    await changes.write(conn)
    free: set[tuple[int, str]] = set()
    if touched:
        await conn.execute(MOVE_UP, list(touched))
        still = {row["aggregate_id"] for row in await conn.fetch(STILL_HELD, list(touched))}
        free = {(lane, key) for key, lane in touched.items() if key not in still}
    return Settled(free, changes.held, changes.dead, changes.published.total())


#: $3: those too that the dead-letter topic $4 has refused, but for its own.
UNCOPIED: Final = """
SELECT id, lane, event_id::text AS event_id, topic, event_type, aggregate_type, aggregate_id, payload,
       headers, (date_part('epoch', created_at) * 1000000)::bigint AS time,
       CASE WHEN message_key IS NULL THEN NULL ELSE jsonb_build_object('key', message_key)::text END AS extras,
       attempts, cause, error, first_failed_at, last_failed_at
  FROM marty.outbox_held
 WHERE state = 'Dead' AND NOT copied AND (copy_error IS NULL OR ($3 AND topic <> $4)) AND lane = ANY($1::smallint[])
 ORDER BY id LIMIT $2
"""


async def uncopied(
    conn: Connection, lanes: Collection[int], limit: int, topic: str, *, refused: bool
) -> Sequence[Record]:
    """Dead letters that the dead-letter topic has not got yet; with `refused` those too that it did not take."""
    rows: Sequence[Record] = await conn.fetch(UNCOPIED, sorted(lanes), limit, refused, topic)
    return rows


MARK_COPIED: Final = """
UPDATE marty.outbox_held AS h SET copied = c.error IS NULL, copy_error = c.error
  FROM unnest($1::bigint[], $2::text[]) AS c (id, error)
 WHERE h.id = c.id AND h.state = 'Dead'
"""


async def mark_copied(conn: Connection, copies: Mapping[int, str | None]) -> None:
    """What became of the copies of these dead letters: Kafka has acknowledged them (None), or why it does not take them."""
    await conn.execute(MARK_COPIED, list(copies), list(copies.values()))


UNBLOCK: Final = """
UPDATE marty.outbox_held SET in_order = false
 WHERE lane = ANY($1::smallint[]) AND state = 'Dead' AND in_order
RETURNING aggregate_id
"""


async def let_pass(conn: Connection, lanes: Collection[int]) -> None:
    """Inside the caller's transaction, with the lanes locked: dead letters hold nobody any more."""
    if keys := [row["aggregate_id"] for row in await conn.fetch(UNBLOCK, sorted(lanes))]:
        await conn.execute(MOVE_UP, keys)


COUNT_CAUSE: Final = """
INSERT INTO marty.outbox_cause AS c (cause, error_type, topic, event_type, message, dead, dead_total, sample_id, first_at, last_at)
VALUES ($1, $2, $3, $4, $5, 1, 1, $6, clock_timestamp(), clock_timestamp())
ON CONFLICT (cause) DO UPDATE
   SET dead = c.dead + 1, dead_total = c.dead_total + 1, sample_id = excluded.sample_id, last_at = excluded.last_at
"""


async def _count_cause(conn: Connection, row: Record, refusal: Refusal) -> None:
    if refusal.cause is not None:
        await conn.execute(
            COUNT_CAUSE,
            refusal.cause.fingerprint,
            refusal.error_type,
            row["topic"],
            row["event_type"],
            refusal.cause.message,
            row["id"],
        )


COUNT: Final = """
UPDATE marty.outbox_position AS p
   SET held = p.held + n.held, dead = p.dead + n.dead, failed_total = p.failed_total + n.failed,
       dead_total = p.dead_total + n.died, published_total = p.published_total + n.published
  FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS n (lane, held, dead, failed, died, published)
 WHERE p.lane = n.lane
"""


@dataclass(slots=True)
class _Changes:
    """Changes of the counters beside the lanes' positions."""

    held: Counter[int] = field(default_factory=Counter)
    dead: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    died: Counter[int] = field(default_factory=Counter)
    published: Counter[int] = field(default_factory=Counter)

    def add(
        self, lane: int, *, held: int = 0, dead: int = 0, failed: int = 0, died: int = 0, published: int = 0
    ) -> None:
        for counter, change in (
            (self.held, held),
            (self.dead, dead),
            (self.failed, failed),
            (self.died, died),
            (self.published, published),
        ):
            counter[lane] += change

    async def write(self, conn: Connection) -> None:
        if lanes := sorted(self.held):
            counters = (self.held, self.dead, self.failed, self.died, self.published)
            await conn.execute(COUNT, lanes, *([counter[lane] for lane in lanes] for counter in counters))
