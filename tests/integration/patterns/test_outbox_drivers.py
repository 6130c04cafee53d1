"""Events in the application's own transaction, whatever its driver: with the business row or not at all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import orjson
import psycopg
import pytest
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from marty_msf.core.errors import InvalidDefinition, MartyError, SchemaOutdated
from marty_msf.patterns.outbox import (
    EnhancedOutboxRepository,
    EventPriority,
    Inbox,
    InvalidEvent,
    OutboxConfig,
    OutsideTransaction,
    PayloadTooLarge,
)
from tests.support.drivers import DRIVERS, Driver, alchemy_url

pytestmark = pytest.mark.postgres

INSERT = "INSERT INTO orders VALUES ('o-1')"
EVENTS = "SELECT event_type, aggregate_id, convert_from(payload, 'UTF8') FROM marty.outbox ORDER BY id"


@pytest.fixture(params=DRIVERS.values(), ids=list(DRIVERS))
async def driver(request: pytest.FixtureRequest, postgres_url: str, conn: asyncpg.Connection) -> AsyncIterator[Driver]:
    await conn.execute("CREATE TABLE orders (id text PRIMARY KEY)")
    opened: Callable[[str], AbstractAsyncContextManager[Driver]] = request.param
    async with opened(postgres_url) as made:
        yield made


def event(**more: Any) -> dict[str, Any]:
    return {"topic": "order.events", "event_type": "order_created", "payload": {"n": 1}, "aggregate_id": "o-1", **more}


async def published(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.fetch(EVENTS)]


async def roll_back(driver: Driver, repository: EnhancedOutboxRepository) -> None:
    async with driver.transaction():
        await driver.execute(INSERT)
        await repository.enqueue_event(**event())
        raise OSError("the application fails")


async def test_an_event_is_there_when_the_transaction_commits_and_not_when_it_rolls_back(
    driver: Driver, conn: asyncpg.Connection
) -> None:
    repository = EnhancedOutboxRepository(driver.given)
    with pytest.raises(OSError, match="the application fails"):
        await roll_back(driver, repository)
    assert (await published(conn), await conn.fetchval("SELECT count(*) FROM orders")) == ([], 0)

    async with driver.transaction():
        await driver.execute(INSERT)
        number = await repository.enqueue_event(**event())
        assert await published(conn) == [], "it was committed before the caller's transaction"
    await repository.wake()
    assert await published(conn) == [("order_created", "o-1", '{"n":1}')]
    assert await conn.fetchval("SELECT id FROM marty.outbox") == number


async def test_every_argument_reaches_the_row(driver: Driver, conn: asyncpg.Connection) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    repository = EnhancedOutboxRepository(driver.given)
    async with driver.transaction():
        await repository.enqueue_event(
            topic="order.events",
            event_type="payment_failed",
            payload=b"\x00\xff",
            aggregate_id=77,
            aggregate_type="order",
            priority=EventPriority.HIGH,
            max_delivery_attempts=10,
            headers={"content-type": "application/x-protobuf", "tenant": "zürich"},
            key="k-7",
            deliver_after=due,
            traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        )
        await repository.enqueue_event("t", "plain", {})
    row, plain = await conn.fetch("SELECT * FROM marty.outbox ORDER BY id")
    assert (row["payload"], row["aggregate_id"], row["aggregate_type"]) == (b"\x00\xff", "77", "order")
    assert (row["priority"], row["max_attempts"], row["message_key"], row["deliver_after"]) == (2, 10, "k-7", due)
    assert orjson.loads(row["headers"]) == {
        "content-type": "application/x-protobuf",
        "tenant": "zürich",
        "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    }
    assert (plain["aggregate_id"], plain["priority"], plain["headers"]) == (None, 1, None)
    assert (plain["max_attempts"], plain["message_key"], plain["deliver_after"]) == (None, None, None)


async def test_a_refused_event_leaves_the_transaction_as_it_was(driver: Driver, conn: asyncpg.Connection) -> None:
    repository = EnhancedOutboxRepository(driver.given, OutboxConfig(dead_letter_topic="dead"))
    async with driver.transaction():
        await driver.execute(INSERT)
        with pytest.raises(PayloadTooLarge, match=r"payload of 900\d+ bytes.*send an identifier"):
            await repository.enqueue_event(**event(payload={"document": "x" * 900_000}))
        with pytest.raises(InvalidEvent, match=r"payload\.items\[1\]\.price: .* is no JSON value"):
            await repository.enqueue_event(**event(payload={"items": [{}, {"price": object()}]}))
        with pytest.raises(InvalidEvent, match="dead_letter_topic"):
            await repository.enqueue_event(**event(topic="dead"))
        with pytest.raises(InvalidEvent, match=r"events\[1\]\.topic: 'no topic'"):
            await repository.enqueue_events([event(), event(topic="no topic")])
        with pytest.raises(InvalidEvent, match=r"^traceparent: a int is no text"):
            await repository.enqueue_event(**event(traceparent=7))
        with pytest.raises(InvalidEvent, match=r"^aggregate_id: is given beside a mapping"):
            await repository.enqueue_event(event(), aggregate_id="order-7")
        with pytest.raises(InvalidEvent, match=r"^traceparent: 'garbage' is no W3C traceparent: give 00-"):
            await repository.enqueue_event(**event(traceparent="garbage"))
        with pytest.raises(InvalidEvent, match=r"^events\[0\]\.headers\['traceparent'\]: '00-1' is no W3C"):
            await repository.enqueue_events([event(headers={"traceparent": "00-1"})])
        for time in (datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)):
            with pytest.raises(InvalidEvent, match=r"^deliver_after: .* beyond the years 2 to 9998"):
                await repository.enqueue_event(**event(deliver_after=time))
        with pytest.raises(InvalidEvent, match=r"^events: a NoneType is no sequence"):
            await repository.enqueue_events(None)  # type: ignore[arg-type]
        await repository.enqueue_event(**event())
    assert len(await published(conn)) == 1
    assert await conn.fetchval("SELECT count(*) FROM orders") == 1


async def test_what_is_accepted_here_at_its_limits_is_accepted_by_the_database(conn: asyncpg.Connection) -> None:
    # 16,384 bytes as Postgres writes them: {"n0": "\\"…", "n1": …}.
    headers = {f"n{n}": '"\n\x01\x7fü' for n in range(10)}
    size = len(orjson.dumps(headers)) + 2 * len(headers) - 1
    headers["n0"] += "x" * (16_384 - size)
    async with conn.transaction():
        await EnhancedOutboxRepository(conn).enqueue_event(
            "t" * 249, "ü" * 100, b"x" * 900_000, "ü" * 256, "a" * 200, EventPriority.LOW, 1000, headers, "k" * 512
        )
    assert orjson.loads(await conn.fetchval("SELECT headers FROM marty.outbox")) == headers
    assert await conn.fetchval("SELECT octet_length(headers::text) FROM marty.outbox") == 16_384


async def test_every_time_that_is_accepted_here_is_kept_by_every_driver(
    driver: Driver, conn: asyncpg.Connection
) -> None:
    times = [
        datetime(2, 1, 1, tzinfo=UTC),
        datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=-12))),
        datetime(9999, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ]
    repository = EnhancedOutboxRepository(driver.given)
    async with driver.transaction():
        await repository.enqueue_events([event(deliver_after=time) for time in times])
        for time in times:
            await repository.enqueue_event(**event(deliver_after=time))
    rows = await conn.fetch("SELECT deliver_after FROM marty.outbox ORDER BY id")
    assert [row["deliver_after"] for row in rows] == times * 2


async def test_a_batch_keeps_its_order_and_is_all_or_none(driver: Driver, conn: asyncpg.Connection) -> None:
    repository = EnhancedOutboxRepository(driver.given)
    async with driver.transaction():
        assert await repository.enqueue_events([]) == []
        numbers = await repository.enqueue_events(
            [event(payload={"n": n}, priority="low", max_delivery_attempts=n or None) for n in range(300)]
            + [event(payload=b"as it is", aggregate_id=None, headers={"a": "b"})]
        )
    assert numbers == sorted(numbers)
    rows = await conn.fetch("SELECT id, payload, max_attempts FROM marty.outbox ORDER BY id")
    assert [row["id"] for row in rows] == numbers
    assert [orjson.loads(row["payload"])["n"] for row in rows[:-1]] == list(range(300))
    assert [row["max_attempts"] for row in rows[:3]] == [None, 1, 2]
    assert rows[-1]["payload"] == b"as it is"


class Row:
    """What an application makes of its own rows; it knows nothing of ours."""

    def __init__(self, *, sku: str) -> None:
        self.sku = sku


@pytest.mark.parametrize("rows", [dict_row, namedtuple_row, scalar_row, class_row(Row)])
@pytest.mark.parametrize("name", ["psycopg", "session over psycopg"])
async def test_the_rows_that_an_application_has_made_are_its_own_affair(
    rows: Any, name: str, postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with DRIVERS[name](postgres_url) as driver:
        given = raw = driver.given
        if isinstance(given, AsyncSession):
            raw = (await (await given.connection()).get_raw_connection()).driver_connection
        raw.row_factory = rows
        repository = EnhancedOutboxRepository(given)
        number = await repository.enqueue_event(**event())
        more = await repository.enqueue_events([event(), event()])
        inbox = Inbox("stock")
        handled = []
        for _ in range(2):
            async with inbox.once(given, {"ce_id": "e-1", "ce_source": "/shop"}) as first:
                handled.append(first)
        assert (handled, await inbox.prune(given)) == ([True, False], 0)
        assert raw.row_factory is rows
        await given.commit()
        await repository.wake()
    assert [row["id"] for row in await conn.fetch("SELECT id FROM marty.outbox ORDER BY id")] == [number, *more]


async def test_what_the_database_itself_refuses_is_told_as_an_invalid_event(
    driver: Driver, conn: asyncpg.Connection
) -> None:
    # As after a migration that lowers the limit, while this process is older.
    for name in ("is_usual_event", "check_event"):
        definition = await conn.fetchval("SELECT pg_get_functiondef(to_regproc('marty.' || $1))", name)
        await conn.execute(definition.replace("> 900000", "> 5").replace("<= 900000", "<= 5"))
    repository = EnhancedOutboxRepository(driver.given)
    with pytest.raises(InvalidEvent, match=r"payload of 7 bytes.*identifier"):
        async with driver.transaction():
            await repository.enqueue_event(**event())
    with pytest.raises(InvalidEvent, match=r"payload of 7 bytes.*identifier"):
        async with driver.transaction():
            await repository.enqueue_events([event(payload=1), event()])
    assert not await conn.fetchval("SELECT count(*) FROM marty.outbox")


async def test_the_wake_up_is_refused_inside_of_a_transaction(driver: Driver) -> None:
    repository = EnhancedOutboxRepository(driver.given)
    async with driver.transaction():
        await repository.enqueue_event(**event())
        with pytest.raises(OutsideTransaction, match="after the commit"):
            await repository.wake()


async def test_a_relay_that_listens_hears_the_wake_up(driver: Driver, conn: asyncpg.Connection) -> None:
    heard = asyncio.Event()
    await conn.add_listener("marty_outbox", lambda *_: heard.set())
    await EnhancedOutboxRepository(driver.given).wake()
    await asyncio.wait_for(heard.wait(), 20)


async def test_two_drivers_in_one_outbox_keep_the_order_of_an_aggregate(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    await conn.execute("CREATE TABLE orders (id text PRIMARY KEY, version int NOT NULL)")
    await conn.execute("INSERT INTO orders VALUES ('o-1', 0)")
    update = "UPDATE orders SET version = version + 1 WHERE id = 'o-1' RETURNING version"

    async def write(driver: Driver, version: Callable[[Any], Any]) -> None:
        repository = EnhancedOutboxRepository(driver.given)
        for _ in range(20):
            async with driver.transaction():
                n = await version(driver.given)
                await repository.enqueue_event(**event(payload={"n": n}))

    async def by_psycopg(connection: Any) -> Any:
        return (await (await connection.execute(update)).fetchone())[0]

    async with (
        DRIVERS["asyncpg"](postgres_url) as one,
        DRIVERS["psycopg"](postgres_url) as two,
        DRIVERS["asyncpg"](postgres_url) as three,
    ):
        await asyncio.gather(
            write(one, lambda given: given.fetchval(update)),
            write(two, by_psycopg),
            write(three, lambda given: given.fetchval(update)),
        )
    rows = await published(conn)
    assert [orjson.loads(payload)["n"] for _, _, payload in rows] == list(range(1, 61))


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


@pytest.mark.parametrize("name", ["asyncpg", "psycopg"])
async def test_a_session_locks_the_aggregate_before_its_event_gets_its_number(
    name: str, postgres_url: str, conn: asyncpg.Connection
) -> None:
    await conn.execute("CREATE TABLE orders (id text PRIMARY KEY, version int NOT NULL)")
    await conn.execute("INSERT INTO orders VALUES ('o-1', 0)")
    engine = create_async_engine(alchemy_url(postgres_url, name))
    async with AsyncSession(engine) as session:
        order = await session.get_one(Order, "o-1")
        order.version = 1
        await EnhancedOutboxRepository(session).enqueue_event(**event())
        with pytest.raises(asyncpg.LockNotAvailableError):
            await conn.execute("SELECT FROM orders FOR UPDATE NOWAIT")
        assert await published(conn) == []
        await session.commit()
    await engine.dispose()
    assert len(await published(conn)) == 1


async def test_of_a_closed_connection_it_is_said_that_it_is_closed(postgres_url: str) -> None:
    closed = await asyncpg.connect(postgres_url)
    await closed.close()
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await EnhancedOutboxRepository(closed).enqueue_event(**event())


async def test_outside_of_a_transaction_an_event_is_refused(postgres_url: str, conn: asyncpg.Connection) -> None:
    with pytest.raises(OutsideTransaction, match=r"asyncpg connection commits each statement.*connection\.transaction"):
        await EnhancedOutboxRepository(conn).enqueue_event(**event())
    async with DRIVERS["psycopg autocommit"](postgres_url) as driver:
        with pytest.raises(OutsideTransaction, match="autocommit=False"):
            await EnhancedOutboxRepository(driver.given).enqueue_events([event()])
    for name in ("asyncpg", "psycopg"):
        engine = create_async_engine(alchemy_url(postgres_url, name), isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            with pytest.raises(OutsideTransaction, match="AUTOCOMMIT"):
                async with session.begin():
                    await EnhancedOutboxRepository(session).enqueue_event(**event())
        await engine.dispose()
    assert await published(conn) == []


@pytest.mark.parametrize("name", list(DRIVERS))
async def test_without_the_schema_every_driver_says_what_to_run(name: str, empty_postgres_url: str) -> None:
    async with DRIVERS[name](empty_postgres_url) as driver:
        repository, inbox = EnhancedOutboxRepository(driver.given), Inbox("stock")

        async def handle() -> None:
            async with inbox.once(driver.given, {"ce_id": "e-1", "ce_source": "/shop"}):
                pass

        for asked in (
            lambda: repository.enqueue_event(**event()),
            lambda: repository.enqueue_events([event()]),
            handle,
            lambda: inbox.prune(driver.given),
        ):
            with pytest.raises(
                SchemaOutdated, match=r"marty.* does not exist: the schema marty is missing.*`marty migrate`"
            ):
                async with driver.transaction():
                    await asked()
        with pytest.raises(SchemaOutdated):
            await repository.wake()


async def test_what_else_is_missing_is_told_as_it_is(driver: Driver, conn: asyncpg.Connection) -> None:
    await conn.execute("""
        CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO nowhere VALUES (1); RETURN NULL; END';
        CREATE TRIGGER audit AFTER INSERT ON marty.outbox_0 FOR EACH ROW EXECUTE FUNCTION audit();
        CREATE TRIGGER audit AFTER INSERT ON marty.outbox_1 FOR EACH ROW EXECUTE FUNCTION audit()""")
    with pytest.raises(Exception, match='relation "nowhere" does not exist') as missing:
        async with driver.transaction():
            await EnhancedOutboxRepository(driver.given).enqueue_event(**event())
    assert not isinstance(missing.value, MartyError)


@pytest.mark.parametrize("config", [{}, {"batch_size": 5}, 5, ()])
async def test_what_is_no_configuration_is_refused_where_it_is_given(config: Any, conn: asyncpg.Connection) -> None:
    with pytest.raises(InvalidDefinition, match=r"^config: is a \w+, no OutboxConfig: give an OutboxConfig, or leave"):
        EnhancedOutboxRepository(conn, config=config)


async def test_what_is_no_connection_of_a_known_driver_is_refused_with_those_that_are(postgres_url: str) -> None:
    engine = create_engine(alchemy_url(postgres_url, "psycopg"))
    with engine.connect() as alchemy, psycopg.connect(postgres_url) as blocking:
        for given in (None, "postgresql://", alchemy, blocking):
            with pytest.raises(InvalidDefinition, match=r"asyncpg connection.*marty\.enqueue_event"):
                EnhancedOutboxRepository(given)
    engine.dispose()
    async with asyncpg.create_pool(postgres_url, min_size=0) as pool:
        with pytest.raises(InvalidDefinition, match="Pool"):
            EnhancedOutboxRepository(pool)
