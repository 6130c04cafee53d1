"""kill -9 in every gap of a verb's way from its row to its answer: it is done exactly once."""

import asyncio
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.saga.events import Retry
from marty_msf.core.saga.journal import decode
from marty_msf.store import saga_instance
from tests.integration.saga.test_crashes import EXPIRE
from tests.support.effects import killed_in, recorded
from tests.support.processes import running

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]


async def test_a_crash_in_any_gap_neither_loses_nor_doubles_a_verb(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert await _pass(postgres_url, "shop/whole", tmp_path, whole) == 0
    effects = recorded(whole)
    assert any("UPDATE marty.saga_verb" in effect for effect in effects)

    two_at_once = asyncio.Semaphore(2)
    one_statement = asyncio.Lock()

    async def crash(gap: int) -> int | None:
        async with two_at_once:
            resource, journal = f"shop/gap-{gap}", tmp_path / f"gap-{gap}"
            assert await _pass(postgres_url, resource, tmp_path, journal, gap) == -9
            async with one_statement:
                for statement in EXPIRE:
                    await conn.execute(statement, f"saga:{resource}")
            assert await _pass(postgres_url, resource, tmp_path) == 0
            return killed_in(journal)

    tried = await asyncio.gather(*(crash(gap) for gap in range(len(effects))))

    assert tried == list(range(len(effects))), "a gap was not tried"
    rows = await conn.fetch("SELECT id, resource, state FROM marty.saga_instance")
    assert len(rows) == len(effects) + 1
    for instance, resource, state in rows:
        shown = await saga_instance.get(conn, resource, instance)
        assert shown is not None
        kinds = Counter(type(decode(entry)[1]) for entry in shown.entries)
        assert (state, kinds[Retry]) == ("Parked", 1), resource
        keys = set((tmp_path / f"{resource.partition('/')[2]}.calls").read_text().split())
        assert keys == {f"{instance}:charge:do:1", f"{instance}:charge:do:2"}, resource
    assert await conn.fetch("SELECT done, count(*) FROM marty.saga_verb GROUP BY done") == [(True, len(rows))]
    parked = await conn.fetchval("SELECT sum(parked) FROM marty.saga_counter")
    assert parked == len(rows), "an instance that parks again is counted once"


async def _pass(url: str, resource: str, directory: Path, journal: Path | None = None, gap: int | None = None) -> int:
    name = resource.partition("/")[2]
    arguments = [
        url,
        resource,
        str(directory / f"{name}.calls"),
        str(journal or "-"),
        *([str(gap)] if gap is not None else []),
    ]
    async with running(["-m", "tests.integration.saga.verb_pass", *arguments], directory / f"{name}.log") as process:
        code = await process.wait(60)
    assert code in {0, -9}, process.output()
    return code
