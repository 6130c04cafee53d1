"""What projections remember beside their rows: sequences per key, and totals. Callers own the transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

#: Topic, partition and ce_source.
Stream = tuple[str, int, bytes]

PREFER_INDEXES: Final = """
SELECT set_config('enable_seqscan', 'off', true),
       set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
"""


async def prefer_indexes(conn: Connection) -> None:
    """For the rest of this transaction: look a batch's keys up in the index, never by a scan of the whole table.

    A plan is kept as long as the connection. One made while the table was small scans it for ever, however large it
    became; and even a fresh one prefers to hash the whole table for a few thousand keys.
    """
    await conn.execute(PREFER_INDEXES)


OPEN_STREAMS: Final = """
WITH asked AS (
    SELECT * FROM unnest($2::text[], $3::integer[], $4::bytea[]) AS a (topic, partition, source)
), made AS (
    INSERT INTO marty.projection_stream AS s (scope, topic, partition, source)
    SELECT $1, topic, partition, source FROM asked
    ON CONFLICT (scope, topic, partition, source) DO NOTHING
    RETURNING s.stream, s.topic, s.partition, s.source
)
SELECT stream, topic, partition, source FROM made
UNION ALL
SELECT s.stream, s.topic, s.partition, s.source
  FROM marty.projection_stream s JOIN asked a USING (topic, partition, source)
 WHERE s.scope = $1
"""


async def open_streams(conn: Connection, scope: str, streams: Iterable[Stream]) -> Mapping[Stream, int]:
    """The numbers of streams, made for those that are new. The caller's leases keep others from making them too."""
    asked = sorted(streams)
    rows = await conn.fetch(OPEN_STREAMS, scope, [s[0] for s in asked], [s[1] for s in asked], [s[2] for s in asked])
    return {(row["topic"], row["partition"], row["source"]): row["stream"] for row in rows}


SEQUENCES: Final = """
SELECT k.stream, k.key, k.sequence
  FROM unnest($1::integer[], $2::bytea[]) AS asked (stream, key)
  JOIN marty.projection_key k ON k.stream = asked.stream AND k.key = asked.key
"""


async def sequences(conn: Connection, keys: Iterable[tuple[int, bytes]]) -> Mapping[tuple[int, bytes], int]:
    """The highest sequence applied for each (stream, key); a key that was never seen is left out."""
    asked = list(keys)
    rows = await conn.fetch(SEQUENCES, [stream for stream, _ in asked], [key for _, key in asked])
    return {(row["stream"], row["key"]): row["sequence"] for row in rows}


RAISE: Final = """
INSERT INTO marty.projection_key (stream, key, sequence)
SELECT stream, key, sequence FROM unnest($1::integer[], $2::bytea[], $3::bigint[]) AS risen (stream, key, sequence)
ON CONFLICT (stream, key) DO UPDATE SET sequence = excluded.sequence
"""


async def raise_sequences(conn: Connection, risen: Mapping[int, Mapping[bytes, int]]) -> None:
    """Remember new highest sequences, by stream number and key; the caller has fenced the partitions' leases."""
    numbers: list[int] = []
    keys: list[bytes] = []
    values: list[int] = []
    for stream in sorted(risen):
        ordered = sorted(risen[stream].items())
        numbers += [stream] * len(ordered)
        keys += [key for key, _ in ordered]
        values += [sequence for _, sequence in ordered]
    if keys:
        await conn.execute(RAISE, numbers, keys, values)


@dataclass(frozen=True, slots=True)
class Passed:
    """Events passed in one partition, in one batch or ever."""

    topic: str
    partition: int
    processed: int
    duplicates: int


COUNT: Final = """
INSERT INTO marty.projection_counter AS c (scope, topic, partition, processed, duplicates)
SELECT $1, topic, partition, processed, duplicates
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) AS n (topic, partition, processed, duplicates)
ON CONFLICT (scope, topic, partition) DO UPDATE
   SET processed = c.processed + excluded.processed, duplicates = c.duplicates + excluded.duplicates
"""


async def count(conn: Connection, scope: str, passed: Sequence[Passed]) -> None:
    """Add to the totals."""
    await conn.execute(
        COUNT,
        scope,
        [p.topic for p in passed],
        [p.partition for p in passed],
        [p.processed for p in passed],
        [p.duplicates for p in passed],
    )


TOTALS: Final = """
SELECT coalesce(sum(processed), 0)::bigint AS processed, coalesce(sum(duplicates), 0)::bigint AS duplicates
  FROM marty.projection_counter
 WHERE scope = $1
"""


async def totals(conn: Connection, scope: str) -> tuple[int, int]:
    """Events processed (applied, or passed because their type has no mapping) and duplicates discarded, ever."""
    row = await conn.fetchrow(TOTALS, scope)
    return row["processed"], row["duplicates"]
