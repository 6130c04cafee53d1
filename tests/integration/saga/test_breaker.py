"""Circuit breakers on a real Postgres: instances wait while a service is down, and lose no attempts over it."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.breaker import Circuit, Phase
from marty_msf.core.saga.instance import in_flight
from marty_msf.store import saga_verb
from marty_msf.worker.saga.calling.python_caller import StepCall
from tests.integration.saga.sagas import Shop, engine, pool_of, spec, states, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

SAGAS = 20


def guarded(open_seconds: int, attempts: int = 5, **fields: Any) -> SagaSpec:
    retry = {"attempts": attempts, "initialBackoffMs": 5, "maxBackoffMs": 20}
    breaker = {"failureThreshold": 3, "openSeconds": open_seconds}
    return spec(
        {"name": "reserve", "compensation": "release"},
        {"name": "charge", "service": "shop", "retry": retry, "circuitBreaker": breaker},
        {"name": "confirm"},
        workers=50,
        **fields,
    )


class Down(Shop):
    """The payment answers nothing while it is down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True
        self.charges = 0

    async def act(self, call: StepCall, action: str) -> Mapping[str, Any] | None:
        if action == "charge":
            self.charges += 1
            if self.down:
                raise OSError("503")
        return await super().act(call, action)


def is_open(circuits: Mapping[str, Circuit]) -> bool:
    return "shop" in circuits and circuits["shop"].phase is Phase.OPEN


async def start_all(running: Any, count: int = SAGAS) -> None:
    await asyncio.gather(*(running.engine.start(f"order-{n}", {"order": n}) for n in range(count)))


async def test_instances_outwait_an_outage_that_would_have_used_up_their_attempts(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Down()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), guarded(open_seconds=1)) as running:
        circuits = running.engine.breakers.circuits
        await start_all(running)
        await eventually(told(partial(is_open, circuits)))
        # Three canaries come and fail: without a breaker all attempts would be gone within 100 ms.
        await eventually(told(lambda: circuits["shop"].generation), lambda it: it >= 6, seconds=15)
        assert await states(conn) == {"Running": SAGAS}
        assert shop.charges <= SAGAS + 6

        shop.down = False
        await eventually(lambda: states(conn), lambda found: found["Completed"] == SAGAS)
        assert running.broken == {}
        # It closes by cohorts: 2, 4, … calls; those of 20 sagas are not enough to close it, only to widen it.
        await start_all(running, 120)
        await eventually(lambda: states(conn), lambda found: found["Completed"] == 120)
        await eventually(told(lambda: circuits["shop"].phase is Phase.CLOSED))
        read = "SELECT phase FROM marty.saga_breaker WHERE service = 'shop'"
        await eventually(lambda: conn.fetchval(read), lambda phase: phase == "Closed")


async def test_pods_share_what_one_of_them_learnt(postgres_url: str, conn: asyncpg.Connection) -> None:
    broken, whole = Down(), Down()
    whole.down = False
    saga = guarded(open_seconds=60)
    async with (
        pool_of(postgres_url) as pool,
        engine(pool, broken.caller(), saga) as one,
        engine(pool, whole.caller(), saga) as two,
    ):
        await eventually(told(lambda: min(len(one.engine.memory.epochs), len(two.engine.memory.epochs)) > 0))
        await start_all(one)
        await start_all(two)
        for it in (one, two):
            await eventually(told(partial(is_open, it.engine.breakers.circuits)), seconds=15)
        before = broken.charges, whole.charges
        await asyncio.gather(*(two.engine.start(f"later-{n}", {}) for n in range(SAGAS)))
        reserved = "SELECT count(*) FROM marty.saga_journal WHERE seq = 2"
        await eventually(lambda: conn.fetchval(reserved), lambda count: count >= 2 * SAGAS)
        assert (broken.charges, whole.charges) == before


async def test_a_deadline_ends_the_waiting(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Down()
    saga = guarded(open_seconds=60, timeoutSeconds=2)
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), saga) as running:
        await start_all(running)
        await eventually(lambda: states(conn), lambda found: found["Compensated"] == SAGAS)
    errors = await conn.fetch("SELECT error FROM marty.saga_instance")
    assert sum("while the breaker of shop was open" in row[0] for row in errors) >= SAGAS - 3
    assert sum(action == "release" for actions in shop.order.values() for action in actions) == SAGAS


async def test_held_calls_are_handed_over_at_once_and_made_by_the_next_owner(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Down()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller(), guarded(open_seconds=60), drain_seconds=30) as running:
            circuits = running.engine.breakers.circuits
            await start_all(running)
            await eventually(told(partial(is_open, circuits)))
            began = time.monotonic()
            await running.stop()
            assert time.monotonic() - began < 15
        await conn.execute("DELETE FROM marty.saga_breaker")
        shop.down = False
        async with engine(pool, shop.caller(), guarded(open_seconds=60)):
            await eventually(lambda: states(conn), lambda found: found["Completed"] == SAGAS)
    assert max(shop.calls.values()) == 1


async def test_a_held_call_of_an_instance_that_is_paused_or_cancelled_is_not_made(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    """Naive: held calls are made when the breaker closes, whatever people were told meanwhile."""
    shop = Down()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), guarded(open_seconds=60)) as running:
        await start_all(running, 5)
        await eventually(told(partial(is_open, running.engine.breakers.circuits)))
        reserved = "SELECT count(*) FROM marty.saga_journal WHERE seq = 2"
        cancelled, paused = [UUID((await running.engine.start(f"later-{n}", {})).saga_id) for n in range(2)]
        await eventually(lambda: conn.fetchval(reserved), lambda count: count == 7)
        charges = shop.charges

        await saga_verb.ask(conn, [cancelled], "cancel", b"{}", "ann")
        await saga_verb.ask(conn, [paused], "pause", b"{}", "ann")
        state = "SELECT state FROM marty.saga_instance WHERE id = $1"
        await eventually(lambda: conn.fetchval(state, cancelled), lambda found: found == "Cancelled")
        live = running.engine.memory.get(str(paused))
        assert live is not None
        await eventually(told(lambda: live.instance.paused and not in_flight(live.instance)))
        assert (shop.charges, shop.order[str(cancelled)]) == (charges, ["reserve", "release"])

        await saga_verb.ask(conn, [paused], "resume", b"{}", "ann")
        await eventually(told(lambda: in_flight(live.instance)))
        assert shop.charges == charges
