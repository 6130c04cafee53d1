"""The events that every contender carries, as SQL: numbered, stamped with the time of their insert, 400 bytes of JSON."""

import asyncio
from typing import Final

import asyncpg

AGGREGATES: Final = 10_000
PAYLOAD_BYTES: Final = 400
WRITERS: Final = 2
ROWS_PER_TRANSACTION: Final = 500

#: bench_rows(first, last, writer): numbers ascend within an aggregate, and no two writers share one.
FUNCTIONS: Final = f"""
CREATE SEQUENCE bench_number;
CREATE FUNCTION bench_payload(n bigint) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT rpad('{{"n":' || n || ',"ts":' || extract(epoch FROM clock_timestamp()) || ',"note":"',
                {PAYLOAD_BYTES - 2}, md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text)) || '"}}'
$$;
CREATE FUNCTION bench_rows(first bigint, last bigint, writer integer)
RETURNS TABLE (aggregate text, payload text) LANGUAGE sql VOLATILE AS $$
    SELECT 'order-' || ((n % {AGGREGATES // WRITERS}) * {WRITERS} + writer), bench_payload(n)
      FROM generate_series(first, last) AS n
$$;
"""


def live_rows(count: int) -> str:
    """As many events of any aggregates, as one transaction of an application would have them.

    A subquery and not a function: Postgres would plan a volatile one at each call, and that costs more than any outbox.
    """
    return f"""(
    SELECT 'order-' || floor(random() * {AGGREGATES})::integer AS aggregate, bench_payload(n) AS payload
      FROM (SELECT nextval('bench_number') AS n FROM generate_series(1, {count}) OFFSET 0) AS number
) AS live"""


class Numbers:
    """Hands out the numbers of loads, so that an aggregate's numbers ascend from load to load."""

    def __init__(self) -> None:
        self.next = 0

    async def load(self, url: str, insert: str, events: int, after_each: str | None = None) -> int:
        """Insert so many events with `insert` (first, last, writer) by WRITERS sessions; returns how many.

        Every transaction has ROWS_PER_TRANSACTION; `after_each` is run by itself behind each.
        """
        share = -(-events // WRITERS // ROWS_PER_TRANSACTION) * ROWS_PER_TRANSACTION
        first = self.next
        self.next += share * WRITERS

        async def write(writer: int) -> None:
            conn = await asyncpg.connect(url)
            try:
                begin = first + writer * share
                for number in range(begin, begin + share, ROWS_PER_TRANSACTION):
                    await conn.execute(insert, number, number + ROWS_PER_TRANSACTION - 1, writer)
                    if after_each:
                        await conn.execute(after_each)
            finally:
                await conn.close()

        await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
        return share * WRITERS
