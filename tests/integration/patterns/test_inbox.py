"""Any consumer effectively-once: whatever Kafka delivers, whoever handles it meanwhile, whenever the process is killed."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from marty_msf.core.errors import OutsideTransaction, TransactionFailed
from marty_msf.patterns.outbox import Inbox
from tests.integration.patterns.inbox_pass import EFFECT, HEADERS
from tests.support.drivers import DRIVERS, Driver, alchemy_url
from tests.support.postgres import blocked
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

LEFT = "SELECT left_over FROM stock"
KEPT = "SELECT count(*) FROM marty.inbox"


@pytest.fixture
async def stock(conn: asyncpg.Connection) -> asyncpg.Connection:
    await conn.execute("CREATE TABLE stock AS SELECT 10 AS left_over")
    return conn


@pytest.fixture(params=list(DRIVERS))
async def driver(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[Driver]:
    async with DRIVERS[request.param](postgres_url) as made:
        yield made


async def handle(driver: Driver, event: Any = HEADERS, consumer: str = "stock", *, fail: bool = False) -> bool:
    async with Inbox(consumer).once(driver.given, event) as first:
        if first:
            await driver.execute(EFFECT)
        if fail:
            raise OSError("no answer")
    return first


async def handle_in_a_transaction(driver: Driver, *, fail: bool = False) -> bool:
    async with driver.transaction():
        first = await handle(driver)
        if fail:
            raise OSError("no answer")
    return first


async def test_an_event_takes_effect_once_for_each_consumer(driver: Driver, stock: asyncpg.Connection) -> None:
    assert [await handle(driver), await handle(driver), await handle_in_a_transaction(driver)] == [True, False, False]
    assert await stock.fetchval(LEFT) == 9
    assert await handle(driver, consumer="another") is True
    assert await handle(driver, {**HEADERS, "ce_source": "/other"}) is True
    assert await stock.fetchval(LEFT) == 7


async def test_events_whose_ids_are_no_text_take_effect_each(driver: Driver, stock: asyncpg.Connection) -> None:
    ids = [b"\xff", b"\xfe", b"\0z", b"z", "\ud800", "?"]
    for _ in range(2):
        for event_id in ids:
            await handle(driver, {"ce_source": b"/shop\xff", "ce_id": event_id})
    assert await stock.fetchval(LEFT) == 10 - len(ids)


async def test_an_event_whose_effects_fail_may_come_again(driver: Driver, stock: asyncpg.Connection) -> None:
    with pytest.raises(OSError, match="no answer"):
        await handle(driver, fail=True)
    with pytest.raises(OSError, match="no answer"):
        await handle_in_a_transaction(driver, fail=True)
    assert (await stock.fetchval(LEFT), await stock.fetchval(KEPT)) == (10, 0)
    assert await handle_in_a_transaction(driver) is True
    assert await stock.fetchval(LEFT) == 9


async def test_what_failed_is_rolled_back_alone_and_the_callers_transaction_goes_on(
    driver: Driver, stock: asyncpg.Connection
) -> None:
    async with driver.transaction():
        await driver.execute(EFFECT)
        with pytest.raises(OSError, match="no answer"):
            await handle(driver, fail=True)
    assert (await stock.fetchval(LEFT), await stock.fetchval(KEPT)) == (9, 0)


async def test_an_error_that_the_block_swallows_does_not_pass_for_a_commit(
    driver: Driver, stock: asyncpg.Connection
) -> None:
    """Naive: Postgres rolls back without a word, the offset is stored, and the event is lost."""

    async def swallow() -> None:
        async with Inbox("stock").once(driver.given, HEADERS):
            await driver.execute(EFFECT)
            with contextlib.suppress(Exception):
                await driver.execute("SELECT 1 / 0")

    with pytest.raises(TransactionFailed, match="savepoint of its own"):
        await swallow()
    assert (await stock.fetchval(LEFT), await stock.fetchval(KEPT)) == (10, 0)
    assert await handle(driver) is True


async def test_consumers_of_all_drivers_that_get_an_event_at_once_handle_it_once(
    postgres_url: str, stock: asyncpg.Connection
) -> None:
    async def consume(name: str) -> int:
        async with DRIVERS[name](postgres_url) as driver:
            return sum([await handle(driver, {**HEADERS, "ce_id": f"e-{n}"}) for n in range(10)])

    firsts = await asyncio.gather(*map(consume, DRIVERS))
    assert sum(firsts) == 10
    assert await stock.fetchval(LEFT) == 0


async def test_who_comes_second_waits_and_handles_the_event_when_the_first_one_fails(
    postgres_url: str, stock: asyncpg.Connection
) -> None:
    async with DRIVERS["asyncpg"](postgres_url) as one, DRIVERS["psycopg"](postgres_url) as two:
        transaction = one.given.transaction()
        await transaction.start()
        assert await handle(one)
        second = asyncio.create_task(handle(two))
        await blocked(stock)
        await transaction.rollback()
        assert await second is True
    assert await stock.fetchval(LEFT) == 9


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", ["asyncpg", "psycopg", "session over asyncpg"])
async def test_a_process_killed_around_its_commit_loses_nothing_and_does_nothing_twice(
    name: str, where: str, postgres_url: str, stock: asyncpg.Connection, tmp_path: Path
) -> None:
    arguments = ["-m", "tests.integration.patterns.inbox_pass", name, postgres_url, where]
    async with running(arguments, tmp_path / "log") as process:

        async def there() -> bool:
            return "there" in process.output()

        await eventually(there)
        process.send(signal.SIGKILL)
        await process.wait()
    async with DRIVERS[name](postgres_url) as driver:
        assert await handle(driver) is (where == "before")
    assert await stock.fetchval(LEFT) == 9


async def test_old_entries_are_forgotten_a_few_at_a_time(driver: Driver, stock: asyncpg.Connection) -> None:
    inbox = Inbox("stock", remember_hours=24)
    for n in range(5):
        await handle(driver, {**HEADERS, "ce_id": f"e-{n}"})
    await handle(driver, consumer="another")
    await stock.execute("UPDATE marty.inbox SET handled_at = now() - interval '25 hours' WHERE event_id <> 'e-4'")
    assert [await inbox.prune(driver.given, 3), await inbox.prune(driver.given, 3)] == [3, 1]
    async with driver.transaction():
        assert await inbox.prune(driver.given) == 0
    assert await stock.fetchval("SELECT array_agg(event_id ORDER BY event_id) FROM marty.inbox") == ["e-1", "e-4"]


@pytest.mark.parametrize("name", ["asyncpg", "psycopg"])
async def test_a_session_that_commits_each_statement_is_refused(
    name: str, postgres_url: str, stock: asyncpg.Connection
) -> None:
    engine = create_async_engine(alchemy_url(postgres_url, name), isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        with pytest.raises(OutsideTransaction, match="AUTOCOMMIT"):
            async with Inbox("stock").once(session, HEADERS):
                pass
    await engine.dispose()
    assert await stock.fetchval(KEPT) == 0
