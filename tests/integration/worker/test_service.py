"""The shell around every worker, seen from outside: a real `marty run relay`, its HTTP surface, and servers that come and go."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from marty_msf.core.worker_config import ProjectionConfig, RelayConfig, SagaConfig, parse, revision
from marty_msf.core.worker_status import ProblemReason, RelayTotals
from marty_msf.store.migrations import migrate
from marty_operator.workers import ANSWER_SECONDS
from tests.integration.relay.setup import discarding_late_ones, enqueue, numbers_by_key, relay_config
from tests.support.broker import broker
from tests.support.kafka import create_topic, delete_topics, read_topic
from tests.support.processes import running
from tests.support.proxy import proxy
from tests.support.waiting import eventually
from tests.support.workers import TOKEN, worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]


def config_at(path: Path) -> SagaConfig | RelayConfig | ProjectionConfig:
    return parse(path.read_text())


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def config(tmp_path: Path, kafka_bootstrap: str) -> Path:
    return relay_config(tmp_path / "config.json", kafka_bootstrap)


async def test_the_surface_of_a_healthy_worker(config: Path, postgres_url: str, tmp_path: Path) -> None:
    async with worker(config, postgres_url, tmp_path) as relay:
        await relay.ready()
        assert (await relay.get("/healthz", token=None))[0] == 200
        code, metrics = await relay.get("/metrics", token=None)
        assert code == 200
        assert "marty_outbox_queue_depth 0.0" in metrics
        assert 'marty_worker_problem{reason="DatabaseUnavailable"} 0.0' in metrics
        assert (await relay.get("/status", token=None))[0] == 401
        assert (await relay.get("/status", token="another"))[0] == 401
        assert (await relay.get("/nothing", token=None))[0] == 401
        status = await relay.status()
        assert status is not None
        assert status.resource == "test/relay"
        assert status.revision == revision(config_at(config))
        assert (status.ready, status.problems, status.local.lanes) == (True, [], 64)
        # Its own renewals and looks write too: one of them may be open at this very moment.
        assert status.totals is not None
        assert status.totals.model_copy(update={"oldest_open_writer": None}) == RelayTotals()


async def test_sigterm_hands_everything_back(
    config: Path, postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    async with worker(config, postgres_url, tmp_path) as relay:
        await relay.ready()
        relay.process.send(signal.SIGTERM)
        assert await relay.process.wait(10) == 0, relay.process.output()

    assert await conn.fetchval("SELECT count(*) FROM marty.lease WHERE holder IS NOT NULL") == 0
    assert await conn.fetchval("SELECT count(*) FROM marty.worker") == 0
    # The outbox stays the relay's until its next pods are there: another relay must not slip in between.
    assert await conn.fetchval("SELECT expires_at > now() + interval '20 seconds' FROM marty.outbox_owner")
    for line in relay.process.output().splitlines():
        assert json.loads(line)["level"] in ("INFO", "WARNING")


async def test_the_worker_outlives_its_database(
    config: Path,
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic = topic_factory("outlives")
    parts = urlsplit(postgres_url)
    async with proxy(parts.hostname or "", parts.port or 5432) as forward:
        through = postgres_url.replace(f":{parts.port}/", f":{forward.port}/")
        async with worker(config, through, tmp_path) as relay:
            await relay.ready()
            forward.cut()
            await enqueue(conn, topic, "a", 0)
            found = await eventually(relay.reasons, lambda reasons: ProblemReason.DATABASE_UNAVAILABLE in reasons)
            assert found == {ProblemReason.DATABASE_UNAVAILABLE}
            assert (await relay.get("/healthz"))[0] == 200
            assert (await relay.get("/readyz"))[0] == 503
            forward.restore()
            await relay.ready()
            await eventually(relay.published, lambda count: count == 1)
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [0]}


@pytest.mark.parametrize("url", ["mysql://user:pa55word@nowhere/db", "postgresql://user:pa55word#more@nowhere/db"])
async def test_a_wrong_database_url_is_told_without_its_password(config: Path, tmp_path: Path, url: str) -> None:
    async with worker(config, url, tmp_path) as relay:
        found = await eventually(relay.reasons, lambda reasons: ProblemReason.DATABASE_UNAVAILABLE in reasons)
        assert found == {ProblemReason.DATABASE_UNAVAILABLE}
        answer = (await relay.get("/status"))[1]
        assert "spec.database.urlSecretRef" in answer
        assert "pa55word" not in answer + relay.process.output()


async def test_a_database_that_takes_connections_and_says_nothing_is_told_in_time(config: Path, tmp_path: Path) -> None:
    async with silent_server() as port, worker(config, f"postgresql://u:p@127.0.0.1:{port}/x", tmp_path) as relay:
        await eventually(relay.status, lambda status: status is not None)
        began = time.monotonic()
        await relay.status()
        assert time.monotonic() - began < ANSWER_SECONDS, "the operator would not wait for it"
        await eventually(relay.reasons, lambda reasons: reasons == {ProblemReason.DATABASE_UNAVAILABLE}, seconds=8)


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Takes connections, reads what comes, never answers."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_the_worker_waits_for_the_schema(config: Path, empty_postgres_url: str, tmp_path: Path) -> None:
    async with worker(config, empty_postgres_url, tmp_path) as relay:
        await eventually(relay.reasons, lambda reasons: reasons == {ProblemReason.SCHEMA_OUTDATED})
        conn = await asyncpg.connect(empty_postgres_url)
        try:
            await migrate(conn)
        finally:
            await conn.close()
        await relay.ready()


async def test_a_broker_that_is_not_there_yet(postgres_url: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    host, port = kafka_bootstrap.rsplit(":", 1)
    async with proxy(host, int(port)) as forward:
        forward.cut()
        config = relay_config(tmp_path / "config.json", f"127.0.0.1:{forward.port}")
        async with worker(config, postgres_url, tmp_path) as relay:
            await eventually(relay.reasons, lambda reasons: ProblemReason.BROKER_UNAVAILABLE in reasons)
            assert (await relay.get("/readyz"))[0] == 503
            forward.restore()
            await relay.ready()


@pytest.mark.timeout(240)
async def test_the_worker_outlives_its_broker(postgres_url: str, conn: asyncpg.Connection, tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    async with broker(tmp_path / "broker") as kafka:
        create_topic(kafka.bootstrap, "outlives", 2)
        config = relay_config(tmp_path / "config.json", kafka.bootstrap)
        async with worker(config, postgres_url, tmp_path) as relay:
            await relay.ready()
            await enqueue(conn, "outlives", "a", 0)
            await eventually(relay.published, lambda count: count == 1)
            await kafka.kill()
            for number in range(1, 50):
                await enqueue(conn, "outlives", "a", number)
            await eventually(relay.reasons, lambda reasons: reasons == {ProblemReason.BROKER_UNAVAILABLE}, seconds=30)
            assert (await relay.get("/healthz"))[0] == 200
            await kafka.start()
            await relay.ready(seconds=30)
            await eventually(relay.published, lambda count: count == 50)
        assert discarding_late_ones(read_topic(kafka.bootstrap, "outlives")) == {"a": list(range(50))}


async def test_a_topic_that_is_not_there_yet(
    config: Path,
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    present = topic_factory("present")
    missing = f"{present}-later"
    await enqueue(conn, missing, "a", 0)
    await enqueue(conn, present, "b", 0)
    async with worker(config, postgres_url, tmp_path) as relay:
        await eventually(relay.reasons, lambda reasons: reasons == {ProblemReason.TOPIC_UNAVAILABLE})
        await eventually(relay.published, lambda count: count == 1)
        await relay.ready()
        status = await relay.status()
        assert status is not None
        assert f"Kafka topic {missing} is missing or forbidden" in status.problems[0].message
        # The others do not wait meanwhile, however often it is tried again.
        for number in range(1, 6):
            await enqueue(conn, present, "b", number)
            await eventually(relay.published, (number + 1).__eq__)
        assert relay.process.output().count("TopicUnavailable is over") == 0
        create_topic(kafka_bootstrap, missing)
        await eventually(relay.published, lambda count: count == 7)
        await eventually(relay.reasons, lambda reasons: reasons == set())
    try:
        assert numbers_by_key(read_topic(kafka_bootstrap, missing)) == {"a": [0]}
    finally:
        delete_topics(kafka_bootstrap, [missing])


async def test_a_second_relay_of_one_database_is_told_so_and_takes_over_when_the_first_is_gone_for_long(
    config: Path, postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    other = relay_config(tmp_path / "second" / "config.json", kafka_bootstrap, name="other")
    async with worker(config, postgres_url, tmp_path) as first:
        await first.ready()
        async with worker(other, postgres_url, tmp_path / "second") as second:
            await eventually(second.reasons, lambda reasons: reasons == {ProblemReason.OUTBOX_OWNED})
            first.process.send(signal.SIGTERM)
            await first.process.wait()
            assert await second.reasons() == {ProblemReason.OUTBOX_OWNED}
            await conn.execute("UPDATE marty.outbox_owner SET expires_at = expires_at - interval '60 seconds'")
            await second.ready()
            assert await conn.fetchval("SELECT resource FROM marty.outbox_owner") == "test/other"


async def test_a_paused_worker_owns_nothing(
    config: Path, postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, tmp_path: Path
) -> None:
    relay_config(config, kafka_bootstrap, state="Paused")
    async with worker(config, postgres_url, tmp_path) as relay:
        await relay.ready()
        assert await conn.fetchval("SELECT count(*) FROM marty.lease") == 0
        assert (await relay.status()) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "Unable to extract tag"),
        ('{"role": "saga"}', "namespace: Field required"),
        (None, "configures a relay, not a projection"),
    ],
)
async def test_a_configuration_that_cannot_be_is_refused_with_its_path(
    config: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    path = config if text is None else written(tmp_path / "bad.json", text)
    arguments = ["-m", "marty_msf.cli", "run", "projection", "--config", str(path)]
    environment = {"MARTY_DATABASE_URL": "postgresql://nowhere/x", "MARTY_TOKEN": TOKEN}
    async with running(arguments, tmp_path / "log", environment) as process:
        assert await process.wait() == 2
        assert message in process.output()
