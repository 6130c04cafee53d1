"""Semantic locks for people: listed, explained, and taken away, on the command line and over HTTP."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from marty_msf.worker.saga.surface.routes import Routes
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, engine, pool_of
from tests.integration.saga.test_locks import LOCKED, becomes, failing, stuck

pytestmark = pytest.mark.postgres


class Held(NamedTuple):
    """A parked instance that holds `order:7`, and one that waits for it."""

    url: str
    pool: asyncpg.Pool
    holder: str
    waiter: str


@pytest.fixture
async def held(postgres_url: str, conn: asyncpg.Connection) -> AsyncIterator[Held]:
    shop, broken = failing()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), LOCKED) as it:
        found = await stuck(it, conn, shop, broken)
        yield Held(postgres_url, pool, found.holder, found.waiter)


async def test_locks_are_listed_with_their_holder_and_who_waits(held: Held) -> None:
    text = await marty(held.url, "locks")
    facts = (await marty(held.url, "locks", "orders", "--key", "order:7", "-o", "json")).json["locks"]

    header, row = text.out.splitlines()
    assert header.split() == ["KEY", "HOLDER", "SAGA", "NAME", "STATE", "SINCE", "WAITING"]
    cells = row.split()
    assert (cells[0], cells[2:5], cells[6]) == ("order:7", [RESOURCE, "change-1", "Parked"], "1")
    assert [(it["saga_id"], it["state"], it["waiters"], it["waiting"]) for it in facts] == [
        (held.holder, "Parked", 1, [held.waiter])
    ]
    assert (await marty(held.url, "locks", "--key", "order:8")).err == "No locks found.\n"


async def test_a_waiting_instance_says_whom_it_waits_for(held: Held) -> None:
    shown = (await marty(held.url, "get", held.waiter, "-o", "json")).json
    listed = (await marty(held.url, "list", "--state", "waiting", "-o", "json")).json["instances"]
    lines = (await marty(held.url, "timeline", held.waiter)).out

    says = f"held by {held.holder} of {RESOURCE} (key 'order:7')"
    assert says in shown["diagnosis"]
    assert [says in it["diagnosis"] for it in listed] == [True]
    assert "locking" in lines


async def test_a_lock_is_taken_by_its_key_with_a_dry_run_before_and_an_audit_after(
    held: Held, conn: asyncpg.Connection
) -> None:
    dry = await marty(held.url, "unlock", "order:7", "--dry-run")
    nobody = await marty(held.url, "unlock", "order:8", "--yes")
    assert (dry.code, "Nothing was changed." in dry.out) == (0, True)
    assert "gives its semantic lock to the next waiter" in dry.out
    assert (nobody.code, "nobody holds the lock 'order:8'" in nobody.err) == (1, True)
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_verb") == 0

    done = await marty(held.url, "unlock", "order:7", "--yes", "--as", "ann")

    assert (done.code, done.err) == (0, "")
    assert "change-1  unlock done: " in done.out
    await becomes(conn, held.waiter, "Completed")
    assert [tuple(it) for it in await conn.fetch("SELECT verb, asked_by, done FROM marty.saga_verb")] == [
        ("unlock", "ann", True)
    ]
    assert "unlock" in (await marty(held.url, "timeline", held.holder)).out


async def test_locks_are_listed_over_http(held: Held) -> None:
    app = web.Application()
    app.add_routes(Routes(held.pool, RESOURCE).definitions())
    async with TestClient(TestServer(app)) as client:
        every = await (await client.get("/v1/locks")).json()
        other = await (await client.get("/v1/locks?key=order:8")).json()
        wrong = await client.get("/v1/locks?name=x")
        nowhere = await client.get("/v1/locks?key=%00")
        says = (wrong.status, (await wrong.json())["error"])

    assert [(it["key"], it["saga_id"]) for it in every["locks"]] == [("order:7", held.holder)]
    assert other == {"locks": []}
    assert says == (400, "name: is unknown: give key")
    assert nowhere.status == 400
