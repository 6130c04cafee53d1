"""`marty run projection` as the pod runs it: a process, its configuration, its status."""

import json
import operator
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from marty_msf.core import worker_config
from marty_msf.core.resources.projection import ProjectionSpec
from tests.integration.projection.support import SCOPE, applied, config, created, publish, rows, spec
from tests.support.processes import Process, free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

TOKEN = "a-token-of-the-tests"


@asynccontextmanager
async def worker(url: str, value: ProjectionSpec, directory: Path) -> AsyncIterator[tuple[Process, str]]:
    """The process and the base of its URLs."""
    path = directory / "config.json"
    path.write_text(worker_config.render(config(value)))
    port = free_port()
    environment = {
        "MARTY_DATABASE_URL": url,
        "MARTY_TOKEN": TOKEN,
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(port),
        "MARTY_POD_NAME": "orders-projection-0",
    }
    arguments = ["-m", "marty_msf.cli", "run", "projection", "--config", str(path)]
    async with running(arguments, directory / "worker.log", environment) as process:
        yield process, f"http://127.0.0.1:{port}"


async def status(base: str) -> dict[str, Any]:
    """The worker's own report; empty until it answers."""
    try:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
            session.get(f"{base}/status") as answer,
        ):
            found: dict[str, Any] = json.loads(await answer.text())
            return found
    except aiohttp.ClientConnectionError:
        return {}


async def metrics(base: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics") as answer:
        return await answer.text()


async def test_a_worker_projects_reports_and_hands_its_partitions_back_at_sigterm(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory("orders", partitions=3)
    events = [created(n, sequence=n + 1) for n in range(50)]
    publish(kafka_bootstrap, topic, [*events, *events[:5]])

    async with worker(postgres_url, spec(kafka_bootstrap, topic), tmp_path) as (process, base):
        await eventually(lambda: applied(conn), lambda count: count == 55, seconds=40)
        # The lag is at most a second old, and a pass is counted when it ends.
        report = await eventually(
            lambda: status(base), lambda found: bool(found.get("ready")) and found["totals"]["lag"] == 0
        )
        await eventually(lambda: metrics(base), lambda text: "marty_projection_processed_events_total 50.0" in text)
        await eventually(lambda: metrics(base), lambda text: "marty_projection_duplicate_events_total 5.0" in text)
        process.send(signal.SIGTERM)
        assert await process.wait() == 0, process.output()

    assert report["problems"] == []
    assert report["totals"] | {"lagSeconds": 0} == {
        "role": "projection",
        "processedTotal": 50,
        "duplicatesTotal": 5,
        "lag": 0,
        "lagSeconds": 0,
    }
    assert report["local"]["lanes"] == 3
    assert len(await rows(conn)) == 50
    assert await conn.fetchval("SELECT count(*) FROM marty.lease WHERE holder IS NOT NULL") == 0
    assert await conn.fetchval("SELECT count(*) FROM marty.worker") == 0


async def test_a_table_that_does_not_fit_is_reported_and_used_as_soon_as_it_does(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1)])
    await conn.execute("CREATE TABLE public.order_summary (order_id text PRIMARY KEY, customer_id text, status text)")

    async with worker(postgres_url, spec(kafka_bootstrap, topic), tmp_path) as (process, base):
        report = await eventually(
            lambda: status(base),
            lambda found: [problem["reason"] for problem in found.get("problems", [])] == ["ReadModelMismatch"],
            seconds=40,
        )
        assert report["ready"] is False
        assert "'total'" in report["problems"][0]["message"]
        await conn.execute("ALTER TABLE public.order_summary ADD total bigint")
        await eventually(lambda: applied(conn), lambda count: count == 1)
        report = await eventually(lambda: status(base), lambda found: found.get("ready") is True)
        assert report["problems"] == []
        # Dropped under its feet: not made again empty, because its events would be missing.
        await conn.execute("DROP TABLE public.order_summary")
        publish(kafka_bootstrap, topic, [created(2)])
        report = await eventually(lambda: status(base), lambda found: found.get("ready") is False)
        assert report["problems"][0]["reason"] == "ReadModelMismatch"
        assert process.returncode is None
    assert await conn.fetchval("SELECT next_offset FROM marty.kafka_position WHERE scope = $1", SCOPE) == 1
    assert await conn.fetchval("SELECT to_regclass('public.order_summary')") is None


async def test_connections_that_break_in_the_middle_lose_nothing_and_apply_nothing_twice(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory("orders", partitions=2)
    await conn.execute(
        """
        CREATE TABLE public.seen (at timestamptz DEFAULT now());
        CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.seen DEFAULT VALUES; RETURN NULL; END $$;
        CREATE TABLE public.order_summary (order_id text PRIMARY KEY, customer_id text, status text, total bigint);
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON public.order_summary FOR EACH ROW EXECUTE FUNCTION public.note();
        """
    )
    publish(kafka_bootstrap, topic, [created(n) for n in range(3000)])

    async with worker(postgres_url, spec(kafka_bootstrap, topic, batch_size=20), tmp_path) as (process, _):
        for threshold in (1, 600, 1200):
            await eventually(lambda: applied(conn), partial(operator.le, threshold), seconds=40)
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await eventually(lambda: applied(conn), lambda count: count == 3000, seconds=40)
        assert process.returncode is None
    assert len(await rows(conn)) == 3000
    assert await conn.fetchval("SELECT count(*) FROM public.seen") == 3000
