"""A database is restored from a dump into another Postgres, where the stored position means nothing."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from dev.chaos.server import running_server
from dev.cluster.postgres import PROGRAMS
from marty_msf.core.lanes import LANES
from marty_msf.core.windows import Position, Snapshot
from marty_msf.core.worker_status import ProblemReason
from tests.integration.relay.readers import Windows
from tests.integration.relay.setup import discarding_late_ones, enqueue, numbers_by_key, relay_config
from tests.integration.saga.commands import marty
from tests.support.kafka import read_topic
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(180)]

KEYS = ("a", "b", "c")


async def copy(source: str, target: str, directory: Path) -> None:
    """As a person does it: pg_dump here, psql there. Passwords go by the environment."""
    dump = directory / "dump.sql"
    for program, url, arguments in (
        ("pg_dump", source, ["--no-owner", f"--file={dump}"]),
        ("psql", target, ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}"]),
    ):
        parts = urlsplit(url)
        address = {
            "PGHOST": parts.hostname or "",
            "PGPORT": str(parts.port or 5432),
            "PGUSER": parts.username or "",
            "PGPASSWORD": parts.password or "",
            "PGDATABASE": parts.path[1:],
        }
        process = await asyncio.create_subprocess_exec(
            str(PROGRAMS / program),
            *arguments,
            env={**os.environ, **address},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()


@pytest.mark.parametrize("how", ["republish", "skip"])
async def test_a_restored_outbox_stands_still_until_a_person_decides(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
    how: str,
) -> None:
    """Naive: the relay goes on from the restored position. The new cluster's transactions have lower numbers than the old
    one's: what they enqueue is behind the position and never published, and what was restored is ahead of it for ever."""
    topic = topic_factory("restored")
    config = relay_config(tmp_path / "config.json", kafka_bootstrap)
    for number in range(10):
        for key in KEYS:
            await enqueue(conn, topic, key, number)
    async with worker(config, postgres_url, tmp_path, "before") as relay:
        await eventually(relay.published, lambda count: count == 30)
    for key in KEYS:
        await enqueue(conn, topic, key, 10)

    async with running_server() as server:
        admin = await asyncpg.connect(server.url("postgres"))
        await admin.execute("CREATE DATABASE restored")
        await admin.close()
        url = server.url("restored")
        await copy(postgres_url, url, tmp_path)
        restored = await asyncpg.connect(url)
        try:
            for key in KEYS:
                await enqueue(restored, topic, key, 11)
            assert [len(rows) for rows in await naive_reads(restored)] == [3, 33, 33]

            async with worker(config, url, tmp_path, "after") as relay:
                await eventually(relay.reasons, lambda found: found == {ProblemReason.OUTBOX_RESTORED}, seconds=30)
                assert (await relay.get("/readyz"))[0] == 503
                assert "marty outbox reset-cursor --republish" in (await relay.get("/status"))[1]
                done = await marty(url, "reset-cursor", f"--{how}", "--yes", group="outbox")
                assert done.out == f"Done: {how} 36 events (0 more are held and stay so).\n"
                await relay.ready(seconds=30)
                for key in KEYS:
                    await enqueue(restored, topic, key, 12)
                expected = 30 + (39 if how == "republish" else 3)
                await eventually(relay.published, lambda count: count == expected)
                assert await relay.reasons() == set()
        finally:
            await restored.close()

    messages = read_topic(kafka_bootstrap, topic)
    first = list(range(10))
    again = [*range(13)] if how == "republish" else [12]
    assert numbers_by_key(messages) == {key: [*first, *again] for key in KEYS}
    late = list(range(13)) if how == "republish" else [*first, 12]
    assert discarding_late_ones(messages) == {key: [*late] for key in KEYS}


async def naive_reads(conn: asyncpg.Connection) -> list[list[str]]:
    """The relay's own reading, three times from the position as it was restored."""
    reader = Windows(conn)
    rows = await conn.fetch("SELECT lane, prev, next, last_id FROM marty.outbox_position")
    assert len(rows) == LANES
    reader.positions = {
        row["lane"]: Position(
            Snapshot(*row["prev"]), Snapshot(*row["next"]) if row["next"] is not None else None, row["last_id"]
        )
        for row in rows
    }
    return [await reader.part() for _ in range(3)]
