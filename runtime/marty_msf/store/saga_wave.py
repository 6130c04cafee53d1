"""The engine's hot write: one statement, one commit, for the transitions of many instances."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.lanes import LANES
from marty_msf.store.columns import plain


@dataclass(slots=True)
class Wave:
    """Columns of the statement's arrays: journal entries, and changes of state for some of the same instances."""

    ids: list[UUID] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    changed_ids: list[UUID] = field(default_factory=list)
    changed_lanes: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    #: A person's verb woke it: it is not counted as parked any more.
    parked_before: list[bool] = field(default_factory=list)


# `mask` has bit n set when lane n is still ours: one test per row instead of a join. A lane that was lost drops out and
# takes its rows along; the other lanes' rows are written.
WAVE: Final = """
WITH held AS MATERIALIZED (
    SELECT l.lane
      FROM marty.lease AS l
     WHERE l.scope = $2 AND l.holder = $3 AND l.epoch = ($4::text::bigint[])[l.lane + 1]
     ORDER BY l.lane FOR SHARE OF l
), mask AS MATERIALIZED (
    SELECT coalesce(bit_or(1::bigint << lane), 0) AS lanes FROM held
), journaled AS (
    INSERT INTO marty.saga_journal (id, seq, entry)
    SELECT m.id, m.seq, m.entry
      FROM unnest($5::uuid[], $6::text::integer[], $7::text::integer[], $8::bytea[]) AS m (id, seq, lane, entry)
     WHERE ((SELECT lanes FROM mask) >> m.lane) & 1 = 1
), changed AS (
    UPDATE marty.saga_instance AS i
       SET state = c.state,
           error = nullif(c.error, ''),
           ended_at = CASE WHEN c.state IN ('Completed', 'Compensated', 'Failed', 'Cancelled') THEN clock_timestamp() END
      FROM unnest($9::uuid[], $10::text::integer[], $11::text::text[], $12::text[], $14::text::boolean[])
        AS c (id, lane, state, error, parked_before)
     WHERE i.id = c.id AND ((SELECT lanes FROM mask) >> c.lane) & 1 = 1
    RETURNING i.state, i.error, c.parked_before, extract(epoch FROM i.ended_at - i.started_at) * 1000 AS duration_ms
), counted AS (
    INSERT INTO marty.saga_counter AS k
           (resource, slot, completed, compensated, failed, cancelled, parked, duration_ms, last_error, last_error_at)
    SELECT $1, $13,
           count(*) FILTER (WHERE state = 'Completed'),
           count(*) FILTER (WHERE state = 'Compensated'),
           count(*) FILTER (WHERE state = 'Failed'),
           count(*) FILTER (WHERE state = 'Cancelled'),
           count(*) FILTER (WHERE state = 'Parked') - count(*) FILTER (WHERE parked_before),
           coalesce(sum(duration_ms), 0),
           max(error) FILTER (WHERE state IN ('Compensated', 'Failed', 'Parked')),
           CASE WHEN count(error) FILTER (WHERE state IN ('Compensated', 'Failed', 'Parked')) > 0 THEN clock_timestamp() END
      FROM changed
     WHERE parked_before OR state IN ('Completed', 'Compensated', 'Failed', 'Cancelled', 'Parked')
    HAVING count(*) > 0
    ON CONFLICT (resource, slot) DO UPDATE SET
           completed = k.completed + excluded.completed,
           compensated = k.compensated + excluded.compensated,
           failed = k.failed + excluded.failed,
           cancelled = k.cancelled + excluded.cancelled,
           parked = k.parked + excluded.parked,
           duration_ms = k.duration_ms + excluded.duration_ms,
           last_error = coalesce(excluded.last_error, k.last_error),
           last_error_at = coalesce(excluded.last_error_at, k.last_error_at)
)
SELECT lane FROM held
"""


async def write(
    conn: Connection, wave: Wave, *, resource: str, scope: str, holder: str, epochs: Mapping[int, int], slot: int
) -> frozenset[int]:
    """Write the wave and commit it; returns the lanes that were still ours. Nothing of the others was written.

    `epochs` names every lane of the wave; ends are counted in the counter's `slot`, one of these lanes. Raises asyncpg.UniqueViolationError, nothing written, when an instance is
    further than the caller believes.
    """
    rows = await conn.fetch(
        WAVE,
        resource,
        scope,
        holder,
        by_lane(epochs),
        wave.ids,
        plain(wave.seqs),
        plain(wave.lanes),
        wave.entries,
        wave.changed_ids,
        plain(wave.changed_lanes),
        plain(wave.states),
        wave.errors,
        slot,
        plain(wave.parked_before),
    )
    return frozenset(row[0] for row in rows)


def by_lane(epochs: Mapping[int, int]) -> str:
    """Epochs as a parameter `$n::text::bigint[]` whose element n belongs to lane n; no epoch is negative, so -1 matches no lease."""
    return plain([epochs.get(lane, -1) for lane in range(LANES)])


# A plan made while the tables were tiny would scan them from end to end, and be kept while they grow. There is one plan
# for all batches: of short arrays Postgres would make a new one each time, which costs as much as starting an instance.
PLAN_FOR_INDEXES: Final = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"
PLAN_AS_USUAL: Final = "RESET enable_seqscan; RESET plan_cache_mode"
