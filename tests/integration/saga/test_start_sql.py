"""marty.start_saga: starts in the caller's own transaction, idempotent by business key under concurrency."""

import asyncio
import json

import asyncpg
import pytest

from marty_msf.core.errors import DatabaseUnavailable
from marty_msf.worker.saga.definitions import Definitions
from tests.integration.saga.sagas import ORDER, RESOURCE, Gated, Shop, ended, engine, pool_of, spec, states
from tests.support.postgres import blocked
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

START = "SELECT marty.start_saga($1, $2, $3::text::jsonb)"
COUNTED = "SELECT coalesce(sum(started), 0)::int FROM marty.saga_counter"


async def start(conn: asyncpg.Connection, key: str, context: object = None) -> str:
    return str(await conn.fetchval(START, RESOURCE, key, json.dumps({} if context is None else context)))


async def test_an_instance_is_there_if_and_only_if_the_transaction_commits(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Shop(refuse=lambda context: context["order"] == 2)
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as running:
        transaction = conn.transaction()
        await transaction.start()
        await start(conn, "lost", {"order": 0})
        await transaction.rollback()
        async with conn.transaction():
            one = await start(conn, "one", {"order": 1})
            two = await start(conn, "two", {"order": 2})
            assert await start(conn, "one", {"order": 9}) == one
            assert shop.order == {}
        assert await ended(conn, 2) == {"Completed": 1, "Compensated": 1}
        receipt = await running.engine.start("one", {})
        assert (receipt.saga_id, receipt.created) == (one, False)
    assert shop.order == {one: ["reserve", "charge", "confirm"], two: ["reserve", "charge", "release"]}
    assert await conn.fetchval(COUNTED) == 2
    assert await conn.fetchval("SELECT substr($1, 15, 1)", one) == "7"


async def test_many_starts_of_one_key_are_one_instance(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Shop()
    async with pool_of(postgres_url, 12) as pool, engine(pool, shop.caller()) as running:

        async def from_sql(key: str) -> str:
            async with pool.acquire() as other:
                return await start(other, key, {"order": 1})

        async def from_http(key: str) -> str:
            return (await running.engine.start(key, {"order": 1})).saga_id

        keys = [f"order-{n % 10}" for n in range(80)]
        ids = await asyncio.gather(*((from_sql if n % 2 else from_http)(key) for n, key in enumerate(keys)))
        assert len(set(zip(keys, ids, strict=True))) == 10
        await ended(conn, 10)
    assert await conn.fetchval(COUNTED) == 10
    assert set(shop.calls.values()) == {1}


async def test_what_was_started_while_no_worker_ran_is_taken_up_and_counted_once(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with pool_of(postgres_url) as pool:
        await Definitions(pool, RESOURCE, ORDER).register()
        for number in range(5):
            await start(conn, f"order-{number}")
        assert await states(conn) == {"Pending": 5}
        async with engine(pool, Shop().caller()):
            assert await ended(conn, 5) == {"Completed": 5}
    assert await conn.fetchval(COUNTED) == 5
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_instance WHERE NOT counted") == 0


async def test_a_start_in_an_open_transaction_makes_nobody_wait(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()) as running:
        async with conn.transaction():
            await start(conn, "open")
            await asyncio.wait_for(
                asyncio.gather(*(running.engine.start(f"other-{n}", {}) for n in range(100))), timeout=10
            )
            async with pool.acquire() as other:
                await eventually(lambda: states(other), lambda found: found["Completed"] == 100)
        await ended(conn, 101)


async def test_new_instances_follow_the_present_definition(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool:
        first = Definitions(pool, RESOURCE, ORDER)
        second = Definitions(pool, RESOURCE, spec({"name": "reserve"}))
        revisions = []
        for number, definitions in enumerate((first, second, first)):
            await definitions.register()
            instance = await start(conn, f"order-{number}")
            revisions.append(await conn.fetchval("SELECT revision FROM marty.saga_instance WHERE id = $1", instance))
    assert revisions == [first.current.revision, second.current.revision, first.current.revision]


@pytest.mark.parametrize(
    ("resource", "key", "context", "code", "says"),
    [
        ("shop/none", "k", "{}", "MA010", "there is no saga 'shop/none'"),
        (None, "k", "{}", "MA010", "there is no saga NULL"),
        (RESOURCE, "", "{}", "MA011", "missing or too long"),
        (RESOURCE, "k" * 513, "{}", "MA011", "missing or too long"),
        (RESOURCE, None, "{}", "MA011", "missing or too long"),
        (RESOURCE, "k", "[]", "MA012", "no JSON object"),
        (RESOURCE, "k", None, "MA012", "no JSON object"),
        (RESOURCE, "k", '{"context": 1}', "MA012", "reserved"),
        (RESOURCE, "k", json.dumps({"a": "x" * 200_000}), "MA012", "196608 are allowed"),
        (RESOURCE, "k", '{"a":' * 64 + "{}" + "}" * 64, "MA012", "nested over 64 levels"),
        (RESOURCE, "k", '{"a": [1, {"b": 1e309}]}', "MA012", "beyond 1.8e308"),
        (RESOURCE, "k", '{"a": -' + "9" * 400 + "}", "MA012", "beyond 1.8e308"),
    ],
)
async def test_what_cannot_be_started_is_refused_by_name(
    postgres_url: str,
    conn: asyncpg.Connection,
    resource: str | None,
    key: str | None,
    context: str | None,
    code: str,
    says: str,
) -> None:
    async with pool_of(postgres_url) as pool:
        await Definitions(pool, RESOURCE, ORDER).register()
    with pytest.raises(asyncpg.PostgresError, match=says) as refused:
        await conn.fetchval(START, resource, key, context)
    assert refused.value.sqlstate == code
    assert await states(conn) == {}


async def test_the_largest_numbers_that_are_allowed_are_worked_on(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()):
        await conn.fetchval(
            START, RESOURCE, "large", '{"a": [1.7976931348623157e308, -1.7976931348623157e308, 1e-400]}'
        )
        assert await ended(conn, 1) == {"Completed": 1}


async def test_the_deepest_context_that_is_allowed_is_worked_on(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()):
        await conn.fetchval(START, RESOURCE, "deep", '{"a":' * 63 + "{}" + "}" * 63)
        assert await ended(conn, 1) == {"Completed": 1}


async def test_a_start_that_waits_for_a_foreign_transaction_holds_up_no_instance_in_work(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as running:
        await running.engine.start("in work", {"order": 1})
        async with conn.transaction():
            id_ = await start(conn, "contested", {"order": 2})
            waiting = asyncio.create_task(running.engine.start("contested", {"order": 2}))
            async with pool.acquire() as other:
                await blocked(other)
                shop.gate.set()
                assert await ended(other, 1) == {"Completed": 1}
            assert not waiting.done()
        assert (await waiting).saga_id == id_
        assert await ended(conn, 2) == {"Completed": 2}


async def test_a_foreign_transaction_that_does_not_end_holds_up_no_other_start(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()) as running:
        async with conn.transaction():
            id_ = await start(conn, "contested", {"order": 1})
            keys = ("before", "contested", "contested", "behind")
            asked = [asyncio.create_task(running.engine.start(key, {"order": 2})) for key in keys]
            async with pool.acquire() as other:
                assert await ended(other, 2) == {"Completed": 2}
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert not running.task.done()
        assert [isinstance(it, DatabaseUnavailable) for it in results] == [False, True, True, False]
        assert "business key 'contested'" in str(results[1])
        assert (await running.engine.start("contested", {"order": 2})).saga_id == id_
        assert await ended(conn, 3) == {"Completed": 3}
