"""Live instances move to another revision of their definition, by `marty saga migrate`, against a running engine."""

import asyncio

import asyncpg
import pytest

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.definition import load, stored_form
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, Failing, Gated, ended, engine, pool_of, spec, states
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

RESERVE = {"name": "reserve", "compensation": "release"}
OLD = spec(RESERVE, {"name": "charge", "compensation": "refund", "pivot": True})
NEW = spec(RESERVE, {"name": "charge", "compensation": "refund", "pivot": True}, {"name": "confirm"})
RENAMED = spec({**RESERVE, "name": "hold"}, {"name": "charge", "compensation": "refund", "pivot": True})


def revision(of: SagaSpec) -> str:
    return load(stored_form(of)).revision


async def test_a_live_instance_is_paused_moved_and_goes_on_by_its_new_revision(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller(), OLD, drain_seconds=0.1) as it:
            receipt = await it.engine.start("order-1", {"order": 1})
        async with engine(pool, shop.caller(), NEW):
            options = ("--from", revision(OLD), "--to", revision(NEW), "--wait", "30")
            dry = await marty(postgres_url, "migrate", "orders", *options, "--dry-run")
            moving = asyncio.create_task(marty(postgres_url, "migrate", "orders", *options, "--yes"))
            await eventually(
                lambda: conn.fetchval("SELECT count(*) FROM marty.saga_verb WHERE verb = 'pause' AND done"),
                lambda paused: paused == 1,
            )
            # It waits for the call that is in flight.
            assert await conn.fetchval("SELECT revision FROM marty.saga_instance") == revision(OLD)
            shop.gate.set()
            done = await moving
            assert await ended(conn, 1) == {"Completed": 1}

    assert "Would migrate 1 instance" in dry.out
    assert done.code == 0, done.err
    assert shop.order[receipt.saga_id][-2:] == ["charge", "confirm"]
    shown = (await marty(postgres_url, "get", receipt.saga_id, "-o", "json")).json
    assert shown["revision"] == revision(NEW)
    lines = (await marty(postgres_url, "timeline", receipt.saga_id, "-o", "json")).json
    verbs = [line["event"] for line in lines if "by" in line]
    assert verbs == ["pause", "migrate", "resume"]


async def test_a_parked_instance_keeps_its_undos_under_their_new_names(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    broken = {"charge"}
    shop = Failing(broken)
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller(), OLD) as it:
            receipt = await it.engine.start("order-1", {"order": 1})
            # `refund` of the charge that may have happened fails too: it parks on its way back.
            broken.add("refund")
            await ended(conn, 1)
        broken.clear()
        async with engine(pool, shop.caller(), RENAMED):
            options = ("--from", revision(OLD), "--to", revision(RENAMED), "--yes")
            refused = await marty(postgres_url, "migrate", "orders", *options)
            done = await marty(postgres_url, "migrate", RESOURCE, *options, "--map", "reserve=hold")
            assert (await states(conn)) == {"Parked": 1}
            assert (await marty(postgres_url, "resume", receipt.saga_id, "--yes")).code == 0
            await eventually(lambda: states(conn), lambda found: found == {"Compensated": 1})

    assert refused.code == 1
    assert "reserve may have happened and is no step" in refused.err
    assert done.code == 0, done.err
    assert [key.partition(":")[2] for key in shop.calls if key.endswith(":undo:1")] == ["charge:undo:1", "hold:undo:1"]


async def test_a_revision_nobody_knows_and_an_instance_of_another_one_are_told(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Gated().caller(), OLD, drain_seconds=0.1) as it:
        await it.engine.start("order-1", {"order": 1})
        unknown = await marty(postgres_url, "migrate", "orders", "--from", revision(OLD), "--to", "nothing", "--yes")
        nobody = await marty(postgres_url, "migrate", "orders", "--from", "nothing", "--to", revision(OLD), "--yes")
        wrong = await marty(postgres_url, "migrate", "orders", "--from", "a", "--to", "b", "--map", "reserve")

    assert (unknown.code, nobody.code, wrong.code) == (1, 1, 2)
    assert "never had the revision 'nothing'" in unknown.err
    assert "no instance fits the filters" in nobody.err
    assert "--map: 'reserve' is no `old=new`" in wrong.err
