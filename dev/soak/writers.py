"""The writers: applications that count their aggregates and enqueue an event for each count, in one transaction.

All of them write to all aggregates. What is committed is known from the counts, whatever became of a transaction.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from dev.soak.plan import (
    ABORTED_SHARE,
    BEFORE_POISON,
    DELAY_SECONDS,
    DELAYED_SHARE,
    EVENTS,
    HIGH_SHARE,
    LOW_SHARE,
    POISON_BYTES,
    SAVEPOINT_SHARE,
    SMALL,
    SMALL_EACH,
    Plan,
)

TABLES: Final = """
CREATE TABLE public.aggregate (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0) WITH (fillfactor = 50);
CREATE TABLE public.poison (id integer PRIMARY KEY);
"""

AGGREGATES: Final = "INSERT INTO public.aggregate (id) SELECT generate_series(0, $1::integer - 1)"

#: In the order of their numbers, so that writers do not deadlock.
LOCK: Final = "SELECT 1 FROM public.aggregate WHERE id = ANY($1::integer[]) ORDER BY id FOR UPDATE"

ENQUEUE: Final = """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($1::integer[], $2::text[], $3::float8[]) AS g (id, priority, delay_seconds)
), counted AS (
    UPDATE public.aggregate AS a SET n = n + 1 FROM given AS g WHERE a.id = g.id
    RETURNING a.id, a.n - 1 AS n, g.priority, g.delay_seconds
)
SELECT count(marty.enqueue_event(
           CASE WHEN id % $4::integer = 0 THEN $5 ELSE $6 END, 'counted',
           jsonb_build_object('n', n, 'note', repeat('x', $7::integer)), 'aggregate-' || id, 'soak',
           priority => priority, deliver_after => clock_timestamp() + make_interval(secs => delay_seconds)))
  FROM counted
"""

#: $3 events that are in order, and the one that Kafka refuses behind them.
POISON: Final = """
WITH noted AS (INSERT INTO public.poison (id) VALUES ($1) RETURNING id)
SELECT count(marty.enqueue_event($2, 'counted', jsonb_build_object('n', n, 'note', repeat('x', CASE WHEN n < $3 THEN 0 ELSE $4 END)),
                                 'poison-' || id, 'soak'))
  FROM noted, generate_series(0, $3::integer) AS n
"""


@dataclass(slots=True)
class Written:
    """What the writers know that they did."""

    events: int = 0
    aborted: int = 0
    delayed: int = 0
    poison: int = 0
    #: The longest that a writer was behind its pace.
    behind_seconds: float = 0.0


@dataclass(slots=True)
class Writers:
    """`run` them once, behind `prepare`."""

    plan: Plan
    url: str
    done: Written = field(default_factory=Written)

    async def prepare(self) -> None:
        """Make their tables."""
        conn = await asyncpg.connect(self.url)
        try:
            await conn.execute(TABLES)
            await conn.execute(AGGREGATES, self.plan.aggregates)
        finally:
            await conn.close()

    async def run(self) -> None:
        """Write for `plan.seconds`."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.plan.writers):
                tasks.create_task(self._write(random.Random(self.plan.seed + number)))
            tasks.create_task(self._poison())

    async def _write(self, source: random.Random) -> None:
        plan, loop = self.plan, asyncio.get_running_loop()
        each_seconds = plan.events_each * plan.writers / plan.rate
        begin = loop.time()
        conn = await asyncpg.connect(self.url)
        try:
            due = begin
            while loop.time() < begin + plan.seconds:
                behind = loop.time() - due
                self.done.behind_seconds = max(self.done.behind_seconds, behind)
                await asyncio.sleep(max(-behind, 0))
                due += each_seconds
                await self._transact(conn, source)
        finally:
            await conn.close()

    async def _transact(self, conn: asyncpg.Connection, source: random.Random) -> None:
        ids = sorted(source.sample(range(self.plan.aggregates), self.plan.events_each))
        delays = [source.uniform(*DELAY_SECONDS) if source.random() < DELAYED_SHARE else None for _ in ids]
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(LOCK, ids)
        if source.random() < SAVEPOINT_SHARE:
            savepoint = conn.transaction()
            await savepoint.start()
            await self._enqueue(conn, ids, source, delays)
            await savepoint.rollback()
        await self._enqueue(conn, ids, source, delays)
        if source.random() < ABORTED_SHARE:
            await transaction.rollback()
            self.done.aborted += 1
            return
        await transaction.commit()
        self.done.events += len(ids)
        self.done.delayed += sum(delay is not None for delay in delays)

    async def _enqueue(
        self, conn: asyncpg.Connection, ids: list[int], source: random.Random, delays: list[float | None]
    ) -> None:
        priorities = source.choices(
            ("high", "low", "normal"), (HIGH_SHARE, LOW_SHARE, 1 - HIGH_SHARE - LOW_SHARE), k=len(ids)
        )
        await conn.execute(ENQUEUE, ids, priorities, delays, SMALL_EACH, SMALL, EVENTS, self.plan.payload_bytes)

    async def _poison(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.plan.seconds
        conn = await asyncpg.connect(self.url)
        try:
            while loop.time() < end:
                await conn.execute(POISON, self.done.poison, SMALL, BEFORE_POISON, POISON_BYTES)
                self.done.poison += 1
                await asyncio.sleep(min(self.plan.poison_seconds, max(end - loop.time(), 0)))
        finally:
            await conn.close()
