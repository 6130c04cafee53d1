"""A projector killed with -9 between any two of its effects loses nothing and applies nothing twice."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.integration.projection.support import (
    BATCH,
    applied,
    confirmed,
    created,
    deleted,
    projecting,
    publish,
    rows,
    spec,
    totals,
)
from tests.support import postgres
from tests.support.effects import killed_in, recorded
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

FIRST = [created(n, sequence=n) for n in range(1, BATCH + 3)]
#: The relay crashed too: it sends a part again, and then what is new.
EVENTS = [*FIRST, *FIRST[3:7], confirmed(1, sequence=101), deleted(2, sequence=102), confirmed(3, sequence=103)]
EXPECTED = {
    f"o-{n}": (f"c-{n % 7}", "confirmed" if n in (1, 3) else "created", n) for n in range(1, BATCH + 3) if n != 2
}
#: One for each row that is inserted, updated or deleted: an event applied twice adds one.
WRITES_OF_ROWS = len(FIRST) + 3

COUNT_WRITES = """
CREATE TABLE public.seen (at timestamptz DEFAULT now());
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.seen DEFAULT VALUES; RETURN NULL; END $$;
CREATE TABLE public.order_summary (order_id text PRIMARY KEY, customer_id text, status text, total bigint);
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON public.order_summary
    FOR EACH ROW EXECUTE FUNCTION public.note();
"""


@pytest.mark.timeout(400)
async def test_a_projector_killed_in_any_gap_goes_on_where_its_last_commit_left_it(
    migrated_template: str, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, EVENTS)

    async def run(url: str, journal: Path, kill_before: int | None) -> int:
        gap = "-" if kill_before is None else str(kill_before)
        arguments = [url, kafka_bootstrap, topic, str(len(EVENTS)), str(journal), gap]
        log = journal.with_suffix(".log")
        async with running(["-m", "tests.integration.projection.crash_pass", *arguments], log) as process:
            return await process.wait(120)

    async def check(url: str) -> None:
        conn = await asyncpg.connect(url)
        assert await rows(conn) == EXPECTED
        assert await totals(conn) == (len(EVENTS) - 4, 4)
        assert await conn.fetchval("SELECT count(*) FROM public.seen") == WRITES_OF_ROWS
        await conn.close()

    async def make_table(url: str) -> None:
        conn = await asyncpg.connect(url)
        await conn.execute(COUNT_WRITES)
        await conn.close()

    async with postgres.database(migrated_template) as url:
        await make_table(url)
        journal = tmp_path / "recorded.txt"
        assert await run(url, journal, None) == 0
        await check(url)
    effects = recorded(journal)
    assert sum(name == "sql commit" for name in effects) > len(EVENTS) // BATCH

    two_at_once = asyncio.Semaphore(2)
    tried: dict[int, int | None] = {}

    async def try_gap(gap: int) -> None:
        async with two_at_once, postgres.database(migrated_template) as own_url:
            await make_table(own_url)
            own_journal = tmp_path / f"gap-{gap}.txt"
            assert await run(own_url, own_journal, gap) == -signal.SIGKILL
            tried[gap] = killed_in(own_journal)
            assert recorded(own_journal) == effects[:gap]
            conn = await asyncpg.connect(own_url)
            # As after the lease's six seconds: the dead worker does not renew it.
            await conn.execute("UPDATE marty.lease SET expires_at = now() - interval '1 s'")
            async with projecting(own_url, spec(kafka_bootstrap, topic, batch_size=BATCH), holder="pod-2/b"):
                await eventually(lambda: applied(conn), lambda count: count == len(EVENTS), seconds=60)
            await conn.close()
            await check(own_url)

    async with asyncio.TaskGroup() as tasks:
        for gap in range(len(effects)):
            tasks.create_task(try_gap(gap))
    assert tried == {gap: gap for gap in range(len(effects))}
