"""Steps at the same time against a real Postgres: results, failing siblings, a person's cancel and pause."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import pytest

from marty_msf.worker.saga.calling.calls import Caller
from marty_msf.worker.saga.calling.python_caller import PythonCaller, StepCall, StepRejected
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import ended, engine, pool_of, spec, states, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

GROUP = spec(
    {"name": "check", "compensation": "uncheck", "parallelGroup": "first"},
    {"name": "reserve", "compensation": "release", "parallelGroup": "first"},
    {"name": "quote", "parallelGroup": "first"},
    {"name": "charge", "compensation": "refund", "pivot": True},
    maxParallelSteps=3,
)
Answer = Callable[[StepCall], Awaitable[Mapping[str, Any] | None]]


class Services:
    """Every action waits for its gate; `log` has begins and ends in order."""

    def __init__(self, **answers: Answer) -> None:
        self.log: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self._answers = answers

    def open(self, *actions: str) -> None:
        for action in actions:
            self.gates.setdefault(action, asyncio.Event()).set()

    def begun(self, *actions: str) -> Callable[[], Awaitable[bool]]:
        return told(lambda: {f"+{action}" for action in actions} <= set(self.log))

    def caller(self) -> Caller:
        actions = ("check", "uncheck", "reserve", "release", "quote", "charge", "refund")
        return PythonCaller({f"shop/{action}": self._handler(action) for action in actions})

    def _handler(self, action: str) -> Answer:
        async def act(call: StepCall) -> Mapping[str, Any] | None:
            self.log.append(f"+{action}")
            await self.gates.setdefault(action, asyncio.Event()).wait()
            self.log.append(f"-{action}")
            answer = self._answers.get(action)
            return await answer(call) if answer else {action: 1}

        return act


async def refuse(call: StepCall) -> None:
    raise StepRejected("no")


async def test_the_steps_of_a_group_are_called_at_the_same_time_and_their_results_merge(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Services()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), GROUP) as it:
        receipt = await it.engine.start("order-1", {})
        await eventually(shop.begun("check", "reserve", "quote"))
        shop.open("check", "quote", "charge")
        assert (await states(conn)) == {"Running": 1}
        shop.open("reserve")
        await ended(conn, 1)

    shown = (await marty(postgres_url, "get", receipt.saga_id, "-o", "json")).json
    assert (shown["state"], shown["context"]) == ("Completed", {"check": 1, "reserve": 1, "quote": 1, "charge": 1})
    assert shop.log.index("+charge") > shop.log.index("-reserve")


async def test_no_more_steps_are_called_at_once_than_allowed(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Services()
    narrow = GROUP.model_copy(update={"max_parallel_steps": 2})
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), narrow) as it:
        await it.engine.start("order-1", {})
        await eventually(shop.begun("check", "reserve"))
        assert "+quote" not in shop.log
        shop.open("check", "reserve", "quote", "charge")
        assert await ended(conn, 1) == {"Completed": 1}

    assert shop.log.index("+quote") > min(shop.log.index("-check"), shop.log.index("-reserve"))


async def test_a_failing_sibling_waits_for_the_others_before_anything_is_undone(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Services(check=refuse)
    shop.open("check", "release", "quote")
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), GROUP) as it:
        receipt = await it.engine.start("order-1", {})
        await eventually(shop.begun("check", "reserve"))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.saga_journal"), lambda entries: entries == 3)
        assert (await states(conn)) == {"Running": 1}
        assert "+release" not in shop.log
        shop.open("reserve")
        assert await eventually(lambda: states(conn), lambda found: found["Compensated"] == 1)

    assert [it for it in shop.log if it in {"-reserve", "+release", "+uncheck", "+charge"}] == ["-reserve", "+release"]
    shown = (await marty(postgres_url, "get", receipt.saga_id, "-o", "json")).json
    assert "check was refused: no" in shown["error"]


async def test_two_steps_that_disagree_on_a_member_park_the_instance_and_name_it(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async def low(call: StepCall) -> Mapping[str, Any]:
        return {"price": 1}

    async def high(call: StepCall) -> Mapping[str, Any]:
        return {"price": 2, "offer": "a"}

    shop = Services(check=low, quote=high)
    shop.open("check", "reserve", "quote", "charge")
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), GROUP) as it:
        receipt = await it.engine.start("order-1", {})
        assert await ended(conn, 1) == {"Parked": 1}
        shown = (await marty(postgres_url, "get", receipt.saga_id, "-o", "json")).json
        assert "steps check and quote gave different values to 'price'" in shown["error"]

        assert (
            await marty(postgres_url, "edit-context", receipt.saga_id, "--patch", '{"price": 2}', "--yes")
        ).code == 0
        assert (await marty(postgres_url, "resume", receipt.saga_id, "--yes")).code == 0
        await eventually(lambda: states(conn), lambda found: found["Completed"] == 1)

    shown = (await marty(postgres_url, "get", receipt.saga_id, "-o", "json")).json
    assert shown["context"] == {"price": 2, "offer": "a", "reserve": 1, "charge": 1}


async def test_a_cancel_in_mid_flight_waits_for_both_calls_and_undoes_them(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Services()
    shop.open("quote", "uncheck", "release")
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), GROUP) as it:
        receipt = await it.engine.start("order-1", {})
        await eventually(shop.begun("check", "reserve", "quote"))
        done = await marty(postgres_url, "cancel", receipt.saga_id, "--yes")
        assert done.code == 0, done.err
        shop.open("check")
        await eventually(told(lambda: "-check" in shop.log))
        assert not {"+uncheck", "+release"} & set(shop.log)
        shop.open("reserve")
        await eventually(lambda: states(conn), lambda found: found["Cancelled"] == 1)

    undone = [it for it in shop.log if it in {"+release", "+uncheck", "+charge"}]
    assert undone == ["+release", "+uncheck"]


async def test_a_pause_holds_the_rest_of_a_group_over_a_restart(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Services()
    narrow = GROUP.model_copy(update={"max_parallel_steps": 1})
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller(), narrow) as it:
            receipt = await it.engine.start("order-1", {})
            await eventually(shop.begun("check"))
            assert (await marty(postgres_url, "pause", receipt.saga_id, "--yes")).code == 0
            shop.open("check", "reserve", "quote", "charge")
            await eventually(
                lambda: conn.fetchval("SELECT count(*) FROM marty.saga_journal"), lambda entries: entries == 3
            )
        async with engine(pool, shop.caller(), narrow):
            assert shop.log == ["+check", "-check"]
            assert (await marty(postgres_url, "resume", receipt.saga_id, "--yes")).code == 0
            assert await ended(conn, 1) == {"Completed": 1}

    assert [it for it in shop.log if it.startswith("+")] == ["+check", "+reserve", "+quote", "+charge"]
