"""An application's own outbox table: what is inserted there is published as if it had been enqueued."""

import asyncio
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from marty_msf.core.errors import MappingInvalid
from marty_msf.core.resources.outbox_source import Source
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import outbox_mapping
from marty_msf.store.database import open_pool
from marty_msf.worker.board import Board
from marty_msf.worker.relay.mapping import SourceTable
from tests.integration.relay.setup import (
    drain,
    enqueue,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    relay_config,
    take_lanes,
)
from tests.support.kafka import Message, read_topic
from tests.support.postgres import blocked, with_database
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

#: As Debezium's outbox event router has it.
DEBEZIUM = """
CREATE SCHEMA app;
CREATE TABLE app.outbox_events (
    id            uuid         PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid   varchar(255) NOT NULL,
    type          varchar(255) NOT NULL,
    payload       jsonb
)
"""
DEBEZIUM_COLUMNS = {
    "eventId": "id",
    "aggregateType": "aggregatetype",
    "aggregateId": "aggregateid",
    "eventType": "type",
    "payload": "payload",
}
#: Everything that can be mapped, with names that need quotes.
WHOLE = """
CREATE SCHEMA "App";
CREATE TYPE "App".urgency AS ENUM ('low', 'normal', 'high');
CREATE DOMAIN "App".body AS bytea;
CREATE TABLE "App"."Outbox" (
    "number" bigint GENERATED ALWAYS AS IDENTITY, "Topic" text, "type" text, "order" bigint, "Kind" text, "Body" "App".body NOT NULL,
    "Headers" json, "Urgency" "App".urgency, "tries" smallint, "notBefore" timestamptz, "key" uuid, "group" text
)
"""
WHOLE_COLUMNS = {
    "topic": "Topic",
    "eventType": "type",
    "aggregateId": "order",
    "aggregateType": "Kind",
    "payload": "Body",
    "headers": "Headers",
    "priority": "Urgency",
    "maxDeliveryAttempts": "tries",
    "deliverAfter": "notBefore",
    "messageKey": "key",
}


def debezium(topic: str = "order.events", **columns: str) -> Source:
    return Source.model_validate(
        {"table": "app.outbox_events", "topic": topic, "columns": {**DEBEZIUM_COLUMNS, **columns}}
    )


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    it = await open_pool(postgres_url, 4, "test")
    yield it
    await it.close()


def mapping(pool: asyncpg.Pool, source: Source | None, board: Board | None = None) -> SourceTable:
    return SourceTable(pool, source, board or Board(), look_seconds=0.05, retry_seconds=0.05)


async def add(conn: asyncpg.Connection, aggregate: str, number: int, event_id: uuid.UUID | None = None) -> None:
    """Event number n of an aggregate, the application's way."""
    await conn.execute(
        "INSERT INTO app.outbox_events VALUES ($1, 'order', $2, 'counted', $3::jsonb)",
        event_id or uuid.uuid4(),
        aggregate,
        json.dumps({"n": number}),
    )


async def events(conn: asyncpg.Connection) -> list[Any]:
    return list(await conn.fetch("SELECT * FROM marty.outbox ORDER BY id"))


async def triggers(conn: asyncpg.Connection) -> list[str]:
    rows = await conn.fetch("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'marty_outbox' ORDER BY 1")
    return [row[0] for row in rows]


async def publish(url: str, bootstrap: str, topic: str) -> list[Message]:
    async with pool_and_producer(url, bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "relay/1")
        await take_lanes(pool, relay, "relay/1")
        await drain(relay)
    return read_topic(bootstrap, topic)


async def test_rows_of_debeziums_table_are_events_in_order_with_native_ones(
    postgres_url: str,
    conn: asyncpg.Connection,
    pool: asyncpg.Pool,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
) -> None:
    topic = topic_factory("orders")
    await conn.execute(DEBEZIUM)
    await add(conn, "before", 0)
    await mapping(pool, debezium(topic)).run_once()
    first = uuid.uuid4()
    await add(conn, "key-0", 0, first)
    for number in range(1, 30):
        async with conn.transaction():
            for key in range(3):
                if (number + key) % 2:
                    await add(conn, f"key-{key}", number)
                else:
                    await enqueue(conn, topic, f"key-{key}", number)
        # As applications do that keep the table empty.
        await conn.execute("DELETE FROM app.outbox_events")
    transaction = conn.transaction()
    await transaction.start()
    await add(conn, "key-0", 99)
    await transaction.rollback()

    messages = await publish(postgres_url, kafka_bootstrap, topic)

    assert numbers_by_key(messages) == {
        "key-0": list(range(30)),
        "key-1": list(range(1, 30)),
        "key-2": list(range(1, 30)),
    }
    message = next(it for it in messages if it.key == b"key-0")
    assert message.value == b'{"n": 0}'
    assert message.headers["ce_id"] == str(first).encode()
    assert message.headers["ce_type"] == b"counted"


async def test_every_column_reaches_the_event_and_bytes_stay_as_they_are(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await conn.execute(WHOLE)
    source = Source.model_validate({"table": "App.Outbox", "columns": WHOLE_COLUMNS})
    await mapping(pool, source).run_once()
    key = uuid.uuid4()

    await conn.execute(
        """
        INSERT INTO "App"."Outbox" ("Topic", type, "order", "Kind", "Body", "Headers", "Urgency", tries, "notBefore", key)
        VALUES ('a', 'made', 7, 'order', '\\x00ff', '{"traceparent": "00-1"}', 'high', 3, '2026-01-31T00:00Z', $1),
               ('b', 'bare', NULL, NULL, '\\x', NULL, NULL, NULL, NULL, NULL)
        """,
        key,
    )

    made, bare = await events(conn)
    assert (made["topic"], made["event_type"], made["aggregate_id"], made["aggregate_type"]) == (
        "a",
        "made",
        "7",
        "order",
    )
    assert (made["payload"], json.loads(made["headers"])) == (b"\x00\xff", {"traceparent": "00-1"})
    assert (made["priority"], made["max_attempts"], made["message_key"]) == (2, 3, str(key))
    assert made["deliver_after"].isoformat() == "2026-01-31T00:00:00+00:00"
    assert (bare["topic"], bare["payload"], bare["aggregate_id"], bare["aggregate_type"]) == ("b", b"", None, "")
    assert (bare["headers"], bare["priority"], bare["max_attempts"], bare["deliver_after"]) == (None, 1, None, None)


async def test_what_marty_would_refuse_is_refused_where_it_is_inserted(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await conn.execute(DEBEZIUM)
    await mapping(pool, debezium()).run_once()

    with pytest.raises(asyncpg.PostgresError) as caught:
        await conn.execute("INSERT INTO app.outbox_events VALUES (gen_random_uuid(), 'order', 'key', 'made', NULL)")

    assert caught.value.sqlstate == "MA004"
    assert await conn.fetchval("SELECT count(*) FROM app.outbox_events") == 0


async def test_a_mapping_is_changed_and_removed_and_an_older_worker_does_not_bring_its_own_back(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await conn.execute(DEBEZIUM + "; CREATE TABLE app.other (LIKE app.outbox_events)")
    older, newer = mapping(pool, debezium("old")), mapping(pool, debezium("new"))
    moved = mapping(pool, debezium("new").model_copy(update={"table": "app.other"}))
    await older.run_once()
    await older.run_once()
    await add(conn, "key", 0)
    await newer.run_once()
    await older.run_once()
    await add(conn, "key", 1)
    assert [row["topic"] for row in await events(conn)] == ["old", "new"]

    await moved.run_once()
    await newer.run_once()
    await add(conn, "key", 2)
    assert await triggers(conn) == ["app.other"]
    assert len(await events(conn)) == 2

    # A table that was made anew gets its trigger again.
    await conn.execute("DROP TABLE app.other; CREATE TABLE app.other (LIKE app.outbox_events)")
    await moved.run_once()
    assert await triggers(conn) == ["app.other"]

    await mapping(pool, None).run(asyncio.Event())
    await moved.run_once()
    assert await triggers(conn) == []
    assert await conn.fetchval("SELECT count(*) FROM pg_proc WHERE proname ~ '^outbox_source_[0-9]'") == 0


async def test_any_number_of_workers_install_it_at_once(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await conn.execute(DEBEZIUM)

    await asyncio.gather(*(mapping(pool, debezium()).run_once() for _ in range(4)))
    await add(conn, "key", 0)

    assert len(await events(conn)) == 1


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (debezium().model_copy(update={"table": "app.outbox"}), "spec.source.table: there is no table app.outbox"),
        (debezium(payload="body"), "spec.source.columns.payload: app.outbox_events has no column 'body'"),
        (debezium(payload="id"), "spec.source.columns.payload: column id of app.outbox_events is uuid"),
        (debezium(eventId="type"), "spec.source.columns.eventId: column type of app.outbox_events is character varying(255)"),
        (debezium(headers="type"), "spec.source.columns.headers: "),
        (debezium(eventType="payload"), "spec.source.columns.eventType: column payload of app.outbox_events is jsonb"),
    ],
)  # fmt: skip
async def test_a_mapping_that_does_not_fit_is_told_and_the_former_one_goes_on(
    conn: asyncpg.Connection, pool: asyncpg.Pool, source: Source, says: str
) -> None:
    await conn.execute(DEBEZIUM)
    await mapping(pool, debezium()).run_once()
    board, stop = Board(), asyncio.Event()
    working = asyncio.create_task(mapping(pool, source, board).run(stop))

    (problem,) = await eventually(told(board.current))
    stop.set()
    await working

    assert (problem.reason, problem.blocking, problem.unmet) == (ProblemReason.MAPPING_INVALID, False, True)
    assert says in problem.message
    await add(conn, "key", 0)
    assert len(await events(conn)) == 1


def told(look: Callable[[], Any]) -> Callable[[], Any]:
    async def answer() -> Any:
        return look()

    return answer


@asynccontextmanager
async def role(conn: asyncpg.Connection) -> AsyncIterator[str]:
    """A user of the test's own who may log in."""
    name = f"tenant_{secrets.token_hex(4)}"
    await conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    try:
        yield name
    finally:
        await conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_missing_rights_are_named_and_what_the_message_says_mends_it(
    postgres_url: str, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    async with role(conn) as owner, role(conn) as migrator:
        database = await conn.fetchval("SELECT current_database()")
        await conn.execute(f"GRANT CREATE ON DATABASE {database} TO {owner}")
        await conn.execute(f"SET ROLE {owner}; {DEBEZIUM}; RESET ROLE")
        await conn.execute(
            f"GRANT USAGE, CREATE ON SCHEMA marty TO {migrator}; GRANT ALL ON ALL TABLES IN SCHEMA marty TO {migrator}"
        )
        await conn.execute(f"ALTER FUNCTION marty.map_outbox_table OWNER TO {migrator}")
        await conn.execute(f"GRANT EXECUTE ON FUNCTION marty.unmap_outbox_tables TO {migrator}")
        for wanted in ("GRANT USAGE ON SCHEMA", "GRANT TRIGGER ON"):
            with pytest.raises(MappingInvalid, match=wanted) as caught:
                await mapping(pool, debezium()).run_once()
            command = caught.value.remedy[caught.value.remedy.index("GRANT") :]
            await conn.execute(f"SET ROLE {owner}; {command}; RESET ROLE")
        await mapping(pool, debezium()).run_once()

        # The owner needs no right in the schema marty.
        own = await asyncpg.connect(with_database(postgres_url, database, user=owner, password="secret"))
        try:
            await add(own, "key", 0)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await own.execute("SELECT FROM marty.outbox")
        finally:
            await own.close()
        assert len(await events(conn)) == 1

        # A trigger that only its table's owner may remove does nothing any more.
        assert await outbox_mapping.install(conn, None, replace=True) == ["app.outbox_events"]
        await add(conn, "key", 1)
        assert len(await events(conn)) == 1
        assert await triggers(conn) == ["app.outbox_events"]


async def test_a_table_in_use_is_mapped_once_it_is_free_and_writers_wait_a_moment_only(
    postgres_url: str, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await conn.execute(DEBEZIUM)
    board, stop = Board(), asyncio.Event()
    other = await asyncpg.connect(postgres_url)
    try:
        async with conn.transaction():
            await add(conn, "key", 0)
            working = asyncio.create_task(mapping(pool, debezium(), board).run(stop))
            await blocked(other)
            async with asyncio.timeout(5):
                await add(other, "key", 1)
        await eventually(lambda: triggers(other))
        stop.set()
        await working
    finally:
        await other.close()

    assert board.current() == []
    assert await events(conn) == []


async def test_a_worker_installs_what_its_configuration_says_and_removes_it(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory("orders")
    await conn.execute(DEBEZIUM)
    arguments = ["-m", "marty_msf.cli", "run", "relay", "--config", str(tmp_path / "config.json")]
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_TOKEN": "token-of-the-test",
        "MARTY_POD_NAME": "pod",
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(free_port()),
    }
    source = debezium(topic).model_dump(by_alias=True, exclude_none=True)
    relay_config(tmp_path / "config.json", kafka_bootstrap, source=source)
    async with running(arguments, tmp_path / "log", environment):
        await eventually(lambda: triggers(conn), lambda found: found == ["app.outbox_events"])
        await add(conn, "key", 0)
        await eventually(
            lambda: conn.fetchval("SELECT coalesce(sum(published_total), 0) FROM marty.outbox_position"),
            lambda published: published == 1,
        )
    relay_config(tmp_path / "config.json", kafka_bootstrap)
    async with running(arguments, tmp_path / "log", environment):
        await eventually(lambda: triggers(conn), lambda found: found == [])

    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"key": [0]}
