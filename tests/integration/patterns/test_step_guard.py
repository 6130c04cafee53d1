"""The guard of services on a real Postgres: once each, in whatever order calls arrive, also at the same time."""

import asyncio
from typing import Any

import asyncpg
import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.patterns.saga import StepTooLate, forget_steps, step_guard
from tests.support.postgres import blocked

pytestmark = pytest.mark.postgres

SAGA = "018f3c00-0000-7000-8000-000000000001"
TAKE = "UPDATE stock SET left_over = left_over - 1 WHERE product = 'lamp'"
GIVE = "UPDATE stock SET left_over = left_over + 1 WHERE product = 'lamp'"
LEFT = "SELECT left_over FROM stock"


@pytest.fixture
async def shop(conn: asyncpg.Connection) -> asyncpg.Connection:
    await conn.execute("CREATE TABLE stock AS SELECT 'lamp' AS product, 10 AS left_over")
    return conn


def key(direction: str, number: int = 1) -> str:
    return f"{SAGA}:reserve:{direction}:{number}"


async def call(conn: asyncpg.Connection, idempotency_key: str) -> Any:
    """A service that takes a lamp and gives it back."""
    async with step_guard(conn, idempotency_key) as step:
        if step.fresh and step.undo:
            assert step.done == {"took": 1}
            await conn.execute(GIVE)
            step.answer = {"gave": 1}
        elif step.fresh:
            await conn.execute(TAKE)
            step.answer = {"took": 1}
    return step.answer


async def failing(conn: asyncpg.Connection, idempotency_key: str) -> None:
    async with step_guard(conn, idempotency_key):
        await conn.execute(TAKE)
        raise OSError("lost")


async def test_each_call_takes_effect_once_and_duplicates_get_the_first_answer(shop: asyncpg.Connection) -> None:
    assert [await call(shop, key("do")) for _ in range(3)] == [{"took": 1}] * 3
    assert await shop.fetchval(LEFT) == 9
    assert [await call(shop, key("undo")) for _ in range(3)] == [{"gave": 1}] * 3
    assert await shop.fetchval(LEFT) == 10


async def test_an_undo_that_comes_first_succeeds_and_refuses_the_late_do(shop: asyncpg.Connection) -> None:
    assert await call(shop, key("undo")) == {}
    for number in (1, 2):
        with pytest.raises(StepTooLate, match="was undone before this call came"):
            await call(shop, key("do", number))
    assert await call(shop, key("undo")) == {}
    assert await shop.fetchval(LEFT) == 10


async def test_a_do_and_its_undo_at_the_same_time_leave_nothing_done(
    shop: asyncpg.Connection, postgres_url: str
) -> None:
    other = await asyncpg.connect(postgres_url)
    try:
        async with shop.transaction():
            await call(shop, key("do"))
            # Without the row's lock the undo would find nothing done, and the do would commit after it.
            undo = asyncio.create_task(call(other, key("undo")))
            await blocked(shop)
        assert await undo == {"gave": 1}
    finally:
        await other.close()
    assert await shop.fetchval(LEFT) == 10


async def test_what_raises_is_rolled_back_and_may_come_again(shop: asyncpg.Connection) -> None:
    async with shop.transaction():
        # The service goes on in its transaction: the guard was a savepoint of it.
        with pytest.raises(OSError, match="lost"):
            await failing(shop, key("do"))
    assert await shop.fetchval(LEFT) == 10
    assert await call(shop, key("do")) == {"took": 1}


async def test_a_refusal_is_kept_and_its_undo_has_nothing_to_do(shop: asyncpg.Connection) -> None:
    for sold_out in (True, False):
        async with step_guard(shop, key("do")) as step:
            if step.fresh and sold_out:
                step.refuse({"error": "sold_out"})
        assert (step.fresh, step.refused, step.answer) == (sold_out, True, {"error": "sold_out"})
    assert await call(shop, key("undo")) == {}
    assert await shop.fetchval(LEFT) == 10


async def test_a_person_s_new_try_is_done_anew_and_outdates_the_calls_before(shop: asyncpg.Connection) -> None:
    await call(shop, key("do", 1))
    async with step_guard(shop, key("do", 3)) as step:
        assert (step.fresh, step.done) == (True, {"took": 1})
        step.answer = {"took": 1}
    with pytest.raises(StepTooLate, match="call 2 comes after call 3"):
        await call(shop, key("do", 2))
    # One undo undoes the step, whichever of its tries it was.
    assert await call(shop, key("undo")) == {"gave": 1}
    assert await call(shop, key("undo", 2)) == {"gave": 1}


async def test_old_steps_are_forgotten_a_few_at_a_time(shop: asyncpg.Connection) -> None:
    for number in range(3):
        async with step_guard(shop, f"{number}:reserve:do:1"):
            pass
    await shop.execute("UPDATE marty.step_guard SET changed_at = now() - interval '2 hours' WHERE saga_id <> '2'")
    assert [await forget_steps(shop, 1, limit=1) for _ in range(3)] == [1, 1, 0]
    assert await shop.fetchval("SELECT saga_id FROM marty.step_guard") == "2"


@pytest.mark.parametrize("wrong", ["", "a:b", "a:b:redo:1", "a:b:do:x", None])
async def test_what_is_no_key_is_refused(conn: asyncpg.Connection, wrong: Any) -> None:
    with pytest.raises(InvalidDefinition, match="idempotency_key"):
        async with step_guard(conn, wrong):
            pass
