"""People's verbs over HTTP, behind the shell's token."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from marty_msf.core.worker_config import SagaConfig
from marty_msf.worker.board import Board
from marty_msf.worker.http import Surface, application
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.sagas import ORDER, Failing, ended, pool_of, states, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

HEADERS = {"Authorization": "Bearer the-token", "Marty-User": "ann"}


def nested(levels: int) -> dict[str, Any]:
    """An object with so many levels of lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return {"a": value}


class Served(NamedTuple):
    """A worker with one instance, parked because its undo fails; `broken` empty: the undo succeeds."""

    client: TestClient[Any, Any]
    saga_id: str
    broken: set[str]
    running: asyncio.Event

    async def post(self, verb: str, body: object = None, query: str = "", **headers: str) -> tuple[int, Any]:
        path = f"/v1/sagas/{self.saga_id}/{verb}{query}"
        answer = await self.client.post(path, json=body, headers={**HEADERS, **headers})
        return answer.status, await answer.json()


@pytest.fixture
async def served(postgres_url: str, conn: asyncpg.Connection) -> AsyncIterator[Served]:
    broken = {"release"}
    shop = Failing(broken)
    shop._refuse = lambda _: True
    board = Board()
    async with pool_of(postgres_url) as pool:
        registry = new_registry(board)
        context = Context(pool, f"test/{secrets.token_hex(4)}", "shop/orders", board, registry)
        role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=ORDER), shop.caller())
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        app = application(Surface(role, board, registry, "shop/orders", "r1"), role, "the-token")
        async with TestClient(TestServer(app)) as client:
            await eventually(told(lambda: role.engine is not None and role.engine.ready.is_set()))
            body = {"business_key": "order-1", "context": {"order": 1}}
            started = await (await client.post("/v1/sagas", json=body, headers=HEADERS)).json()
            await ended(conn, 1)
            yield Served(client, started["saga_id"], broken, stop)
        stop.set()
        await task


async def test_a_verb_is_done_and_audited_with_its_person(served: Served, conn: asyncpg.Connection) -> None:
    served.broken.clear()

    status, answer = await served.post("retry")

    assert (status, answer["done"], answer["by"]) == (200, True, "ann")
    await eventually(lambda: states(conn), lambda found: found["Compensated"] == 1)
    shown = await (await served.client.get(f"/v1/sagas/{served.saga_id}", headers=HEADERS)).json()
    assert [(line["event"], line["by"]) for line in shown["timeline"] if "by" in line] == [("retry", "ann")]


async def test_a_verb_that_is_not_possible_is_refused_and_kept(served: Served, conn: asyncpg.Connection) -> None:
    status, answer = await served.post("pause")

    assert (status, answer["done"]) == (409, False)
    assert "it is parked" in answer["answer"]
    shown = await (await served.client.get(f"/v1/sagas/{served.saga_id}", headers=HEADERS)).json()
    assert shown["timeline"][-1]["detail"].startswith("refused: it is parked")


async def test_a_dry_run_says_what_would_be_done(served: Served, conn: asyncpg.Connection) -> None:
    possible = await served.post("skip-step", query="?dryRun=true")
    impossible = await served.post("pause", query="?dryRun=true")

    assert (possible[0], possible[1]["possible"]) == (200, True)
    assert possible[1]["text"].startswith("takes undo of reserve for handled")
    assert (impossible[0], impossible[1]["possible"]) == (409, False)
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_verb") == 0


async def test_a_context_is_edited_by_a_merge_patch(served: Served) -> None:
    status, _ = await served.post("edit-context", {"patch": {"order": None, "total": 7}})

    shown = await (await served.client.get(f"/v1/sagas/{served.saga_id}", headers=HEADERS)).json()
    assert (status, shown["context"]) == (200, {"total": 7, "reserve": "reserve-1"})


async def test_who_asks_is_the_address_where_no_name_is_given(served: Served, conn: asyncpg.Connection) -> None:
    path = f"/v1/sagas/{served.saga_id}/skip-step"
    answer = await served.client.post(path, headers={"Authorization": HEADERS["Authorization"]})

    assert answer.status == 200
    assert await conn.fetchval("SELECT asked_by FROM marty.saga_verb") == "http 127.0.0.1"


async def test_a_request_that_nobody_can_answer_now_stays(served: Served, conn: asyncpg.Connection) -> None:
    served.running.set()
    await eventually(
        lambda: conn.fetchval("SELECT count(*) FROM marty.lease WHERE holder IS NOT NULL"), lambda held: held == 0
    )

    status, answer = await served.post("resume", query="?wait=0")

    assert (status, answer["done"]) == (202, None)
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_verb WHERE done IS NULL") == 1


@pytest.mark.parametrize(
    ("verb", "body", "query", "path"),
    [
        ("restart", None, "", "verb"),
        ("retry", {"step": "reserve"}, "", "step"),
        ("retry", [], "", "body"),
        ("skip-step", {"step": "fly"}, "?dryRun=maybe", "dryRun"),
        ("edit-context", {}, "", "patch"),
        ("edit-context", {"patch": []}, "", "patch"),
        *(("edit-context", {"patch": nested(levels)}, "", "patch") for levels in (100, 900)),
        ("migrate", {"from": "a\0", "to": "b"}, "", "from"),
        ("migrate", {"from": "a", "to": "b", "map": {"a\0": "b"}}, "", "map"),
        ("retry", None, "?wait=0000000000001", "wait"),
        ("retry", None, "?dryRun=true&dryRun=false", "dryRun"),
        ("retry", None, "?wait=99", "wait"),
        ("retry", None, "?force=1", "force"),
    ],
)
async def test_a_bad_request_is_refused_by_name(
    served: Served, conn: asyncpg.Connection, verb: str, body: object, query: str, path: str
) -> None:
    status, answer = await served.post(verb, body, query)

    assert status == 400
    assert answer["error"].startswith(f"{path}: ")
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_verb") == 0


async def test_a_step_that_the_instance_has_not_and_other_instances_are_told(served: Served) -> None:
    status, answer = await served.post("skip-step", {"step": "fly"})
    assert (status, answer["done"]) == (409, False)
    assert "'fly' is none of this instance" in answer["answer"]

    unknown = "/v1/sagas/018f0000-0000-7000-8000-000000000000/retry"
    assert (await served.client.post(unknown, headers=HEADERS)).status == 404
    assert (await served.client.post("/v1/sagas/nonsense/retry", headers=HEADERS)).status == 400
    assert (await served.client.post(f"/v1/sagas/{served.saga_id}/retry")).status == 401
