"""An aggregate that was held goes its lane's way again, also when its events never cease; a topic made anew is noticed soon."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.worker_status import ProblemReason
from tests.integration.relay.setup import discarding_late_ones, numbers_by_key, relay_config
from tests.integration.relay.writers import unpublished
from tests.support.kafka import create_topic, delete_topics, read_topic, recreate_topic
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(120)]

KEYS = [f"key-{number}" for number in range(10)]
ONE_OF_EACH = """
SELECT marty.enqueue_event($1, 'counted', jsonb_build_object('n', $2::integer), key, 'thing') FROM unnest($3::text[]) AS key
"""


class Writer:
    """Writes an event of every key to every topic, again and again, with a pause between."""

    def __init__(self, url: str, *topics: str, keys: Sequence[str] = KEYS, pause_seconds: float = 0.005) -> None:
        self._url = url
        self._topics = topics
        self._keys = keys
        self._pause_seconds = pause_seconds
        self.number = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        writing = asyncio.create_task(self._write(stop))
        try:
            yield
        finally:
            stop.set()
            await writing

    async def _write(self, stop: asyncio.Event) -> None:
        conn = await asyncpg.connect(self._url)
        try:
            while not stop.is_set():
                async with conn.transaction():
                    for topic in self._topics:
                        await conn.execute(ONE_OF_EACH, topic, self.number, self._keys)
                self.number += 1
                await asyncio.sleep(self._pause_seconds)
        finally:
            await conn.close()


async def held(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM marty.outbox_held"))


async def unseen_for(conn: asyncpg.Connection, writer: Writer, events: int) -> bool:
    """Whether nothing is held as long as so many events of each key are written."""
    until = writer.number + events
    while writer.number < until:
        if await held(conn):
            return False
        await asyncio.sleep(0.01)
    return True


async def test_a_busy_aggregate_is_free_soon_after_an_event_of_it_was_delayed(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    """Naive: while its held events are sent new ones are held behind them, and so for ever, two seconds late."""
    topic = topic_factory("busy")
    config = relay_config(tmp_path / "config.json", kafka_bootstrap)
    writer = Writer(postgres_url, topic)
    async with worker(config, postgres_url, tmp_path, "first") as first:
        await first.ready()
        for key in KEYS:
            await conn.execute(
                "SELECT marty.enqueue_event($1, 'delayed', '{\"n\": -1}', $2, deliver_after => now() + interval '1 s')",
                topic,
                key,
            )
        async with writer.running():
            await eventually(lambda: held(conn), lambda rows: rows >= len(KEYS))
            await eventually(lambda: unseen_for(conn, writer, 50), seconds=30)
            assert await held(conn) == 0
        await eventually(lambda: unpublished(conn), lambda left: left <= 0)
    everything = numbers_by_key(read_topic(kafka_bootstrap, topic))
    assert everything == {key: list(range(-1, writer.number)) for key in KEYS}


@pytest.mark.parametrize("transactional", [False, True], ids=["usual", "transactional"])
async def test_many_busy_aggregates_are_free_soon_after_their_topic_appeared(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
    *,
    transactional: bool,
) -> None:
    """Naive: what is held is sent lane by lane, more slowly than more of it is written, and grows for ever."""
    topic = topic_factory("busy")
    missing = f"{topic}-missing"
    keys = [f"key-{number}" for number in range(300)]
    kafka = {"bootstrapServers": kafka_bootstrap, "producer": {"transactional": transactional}}
    config = relay_config(tmp_path / "config.json", kafka_bootstrap, kafka=kafka)
    writer = Writer(postgres_url, topic, keys=keys, pause_seconds=0.2)
    async with worker(config, postgres_url, tmp_path, "first") as first:
        await first.ready()
        await conn.execute(ONE_OF_EACH, missing, -1, keys)
        await eventually(lambda: held(conn), lambda rows: rows == len(keys))
        async with writer.running():
            await eventually(lambda: held(conn), lambda rows: rows > 5 * len(keys))
            create_topic(kafka_bootstrap, missing)
            try:
                await eventually(lambda: held(conn), lambda rows: rows == 0, seconds=40)
            finally:
                delete_topics(kafka_bootstrap, [missing])
        await eventually(lambda: unpublished(conn), lambda left: left <= 0, seconds=40)
    expected = {key: list(range(writer.number)) for key in keys}
    assert discarding_late_ones(read_topic(kafka_bootstrap, topic)) == expected


async def test_a_topic_that_was_made_anew_with_fewer_partitions_is_used_again_soon(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    """Naive: all lanes stand until the deadline of acknowledgements, which is far here, and the status says nothing."""
    topic, other = topic_factory("again", partitions=8), topic_factory("other")
    config = relay_config(tmp_path / "config.json", kafka_bootstrap, batchTimeoutMs=60_000)
    writer = Writer(postgres_url, topic, other)
    async with worker(config, postgres_url, tmp_path, "first") as first:
        async with writer.running():
            await eventually(first.published, lambda count: count > 500)
            await asyncio.to_thread(recreate_topic, kafka_bootstrap, topic, 2)
            await eventually(first.reasons, lambda found: ProblemReason.TOPIC_UNAVAILABLE in found)
            await eventually(first.reasons, lambda found: not found)
            await eventually(lambda: held(conn), lambda rows: rows == 0)
            since, count = writer.number, await first.published()
            await eventually(first.published, lambda now: now > count + 500)
        await eventually(lambda: unpublished(conn), lambda left: left <= 0)
    later = {
        key: [number for number in numbers if number >= since]
        for key, numbers in numbers_by_key(read_topic(kafka_bootstrap, topic)).items()
    }
    assert later == {key: list(range(since, writer.number)) for key in KEYS}
    # What Kafka had behind the refusal comes again, with its ids.
    assert discarding_late_ones(read_topic(kafka_bootstrap, other)) == {key: list(range(writer.number)) for key in KEYS}
