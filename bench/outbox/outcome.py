"""What a piece of work brought: its figures, and the proof that they mean something."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from bench.outbox.contenders import PUT, Stage
from bench.outbox.site import Running
from bench.outbox.topic import Found
from bench.peers.meter import Meter, meter

PGBENCH: Final = Path("/usr/lib/postgresql/15/bin/pgbench")
CLIENTS: Final = 8

Figures = list[tuple[str, float, str]]


class Void(Exception):
    """A contender lost, invented or reordered something: its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures as (metric, value, unit), what was used, and what was checked."""

    figures: Figures
    cpu_seconds: Mapping[str, float]
    verified: Mapping[str, str]


def verified(name: str, found: Found, expected: int, *, ordered: bool) -> dict[str, str]:
    """What was found, in words. Raises Void unless it is all of the expected events, once each.

    `ordered`: the numbers of an aggregate tell the order of its events (one writer at a time made them).
    """
    wrong = [
        words
        for words, is_wrong in (
            (f"{found.distinct} distinct events, {expected} were written", found.distinct != expected),
            (f"{found.records} records of {expected} events", found.records != expected),
            (f"{found.late} events behind a later one of their aggregate", ordered and found.late > 0),
        )
        if is_wrong
    ]
    if wrong:
        raise Void(f"{name}: {'; '.join(wrong)}")
    told = {"events in Kafka": f"{found.distinct} of {expected}", "aggregates": str(found.aggregates)}
    return told | ({"out of order": str(found.late)} if ordered else {})


@asynccontextmanager
async def metered(stage: Stage, relay: Running) -> AsyncIterator[Meter]:
    """Postgres, the broker and the relay's processes."""
    async with meter([urlsplit(stage.site.url).path.lstrip("/")], relay.pids, broker=True) as cost:
        yield cost


async def put(stage: Stage, rate: int, seconds: float) -> None:
    """Insert at a fixed rate: one event per transaction up to 1,000 a second, else five."""
    each = 1 if rate <= 1_000 else 5
    await pgbench(stage, f"SELECT {PUT[each]}", "-T", str(seconds), "-R", str(rate // each))


@asynccontextmanager
async def application(stage: Stage, rate: int, warm_up_seconds: int, seconds: int) -> AsyncIterator[int]:
    """One that inserts at a fixed rate, and is measured when its sessions have planned and cached what they do.

    Gives the number of the last event before that; waits for the end of the application at its own.
    """
    inserting = asyncio.create_task(put(stage, rate, warm_up_seconds + seconds))
    try:
        await asyncio.sleep(warm_up_seconds)
        yield await numbered(stage.site.url)
        await inserting
    finally:
        inserting.cancel()
        await asyncio.gather(inserting, return_exceptions=True)


async def pgbench(stage: Stage, script: str, *arguments: str) -> str:
    """Its output. It ends with the task that awaits it."""
    path = stage.site.directory / f"script-{abs(hash(script))}.sql"
    path.write_text(script + ";\n")
    process = await asyncio.create_subprocess_exec(
        *(str(PGBENCH), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1"),
        *(*arguments, "-f", str(path), stage.site.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"pgbench: {output.decode()[-2000:]}")
    return output.decode()


async def value(url: str, query: str) -> Any:
    """The first column of the first row."""
    conn = await asyncpg.connect(url)
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


async def vacuum(url: str) -> None:
    """What autovacuum does long before a real outbox is this large."""
    await value(url, "VACUUM ANALYZE")


async def numbered(url: str) -> int:
    """How many events were written."""
    return int(await value(url, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM bench_number"))
