"""The saga's HTTP surface behind the shell's token."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from marty_msf.core.worker_config import SagaConfig
from marty_msf.worker.board import Board
from marty_msf.worker.http import Surface, application
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.sagas import ORDER, Shop, ended, pool_of, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TOKEN = {"Authorization": "Bearer the-token"}


@pytest.fixture
async def client(postgres_url: str) -> AsyncIterator[TestClient[Any, Any]]:
    board = Board()
    shop = Shop(refuse=lambda context: context.get("total", 0) > 100)
    async with pool_of(postgres_url) as pool:
        registry = new_registry(board)
        context = Context(pool, f"test/{secrets.token_hex(4)}", "shop/orders", board, registry)
        role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=ORDER), shop.caller())
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        app = application(Surface(role, board, registry, "shop/orders", "r1"), role, "the-token")
        async with TestClient(TestServer(app)) as it:
            await eventually(told(lambda: role.engine is not None and role.engine.ready.is_set()))
            yield it
        stop.set()
        await task


def calls(shown: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in shown["timeline"] if line["event"] == "call"]


async def test_a_start_is_idempotent_and_the_instance_can_be_looked_at(
    client: TestClient[Any, Any], conn: asyncpg.Connection
) -> None:
    body = {"business_key": "order-7", "context": {"order": 7, "total": 500}}
    first = await client.post("/v1/sagas", json=body, headers=TOKEN)
    again = await client.post("/v1/sagas", json=body, headers=TOKEN)
    await ended(conn, 1)

    assert (first.status, again.status) == (201, 200)
    saga_id = (await first.json())["saga_id"]
    assert await again.json() == {"saga_id": saga_id, "created": False}
    shown = await (await client.get(f"/v1/sagas/{saga_id}", headers=TOKEN)).json()
    assert (shown["business_key"], shown["state"]) == ("order-7", "Compensated")
    assert shown["context"] == {"order": 7, "total": 500, "reserve": "reserve-7"}
    assert [(line.get("step"), line.get("direction"), line.get("outcome")) for line in calls(shown)] == [
        ("reserve", "do", "succeeded"),
        ("charge", "do", "refused"),
        ("reserve", "undo", "succeeded"),
    ]
    status = await (await client.get("/status", headers=TOKEN)).json()
    assert status["totals"]["compensated"] == 1
    assert "declined" in status["totals"]["lastError"]
    assert sum(status["local"]["durationBucketCounts"]) == 1
    assert "marty_saga_instances_ended_total" in await (await client.get("/metrics")).text()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"{", "body"),
        (b"[]", "body"),
        (b"{}", "business_key"),
        (b'{"business_key": 7}', "business_key"),
        (b'{"business_key": ""}', "business_key"),
        (b'{"business_key": "a\\u0000b"}', "business_key"),
        (b'{"business_key": "%s"}' % (b"x" * 513), "business_key"),
        (b'{"business_key": "a", "context": []}', "context"),
        (b'{"business_key": "a", "context": {"context": 1}}', "context"),
        (b'{"business_key": "a", "context": {"x": "%s"}}' % (b"x" * 200_000), "context"),
        *((b'{"business_key": "a", "context": {"x": %s}}' % (b"[" * n + b"]" * n), "context") for n in (64, 253, 1000)),
        (b'{"business_key": "a", "contxt": {}}', "contxt"),
    ],
)
async def test_a_bad_start_is_refused_with_path_and_remedy(
    client: TestClient[Any, Any], conn: asyncpg.Connection, body: bytes, path: str
) -> None:
    answer = await client.post("/v1/sagas", data=body, headers=TOKEN)

    assert answer.status == 400
    assert (await answer.json())["error"].startswith(f"{path}: ")
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_instance") == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_encoded_as_it_says_is_refused(
    client: TestClient[Any, Any], conn: asyncpg.Connection, encoding: str
) -> None:
    body = b"\x1f\x8b\x08\x00junkjunk"
    answer = await client.post("/v1/sagas", data=body, headers={**TOKEN, "Content-Encoding": encoding}, compress=False)

    assert answer.status == 400
    assert (await answer.json())["error"].startswith("body: is not encoded")


async def test_unknown_instances_and_missing_tokens_are_told(client: TestClient[Any, Any]) -> None:
    assert (await client.get("/v1/sagas/nonsense", headers=TOKEN)).status == 400
    unknown = "018f0000-0000-7000-8000-000000000000"
    assert (await client.get(f"/v1/sagas/{unknown}", headers=TOKEN)).status == 404
    assert (await client.get(f"/v1/sagas/{unknown}")).status == 401
    assert (await client.post("/v1/sagas", json={"business_key": "a"})).status == 401


async def test_instances_are_listed_by_filters_and_pages(
    client: TestClient[Any, Any], conn: asyncpg.Connection
) -> None:
    for number in range(5):
        body = {"business_key": f"order-{number}", "context": {"order": number, "total": 500 * (number % 2)}}
        await client.post("/v1/sagas", json=body, headers=TOKEN)
    await ended(conn, 5)

    first = await (await client.get("/v1/sagas?limit=3", headers=TOKEN)).json()
    second = await (await client.get(f"/v1/sagas?limit=3&after={first['next']}", headers=TOKEN)).json()
    refused = await (await client.get("/v1/sagas?state=compensated&since=1h&error=declined", headers=TOKEN)).json()

    keys = [[it["business_key"] for it in page["instances"]] for page in (first, second, refused)]
    assert keys == [["order-4", "order-3", "order-2"], ["order-1", "order-0"], ["order-3", "order-1"]]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("state=sleeping", "state"),
        ("since=soon", "since"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=000000200999", "limit"),
        ("state=parked&state=completed", "state"),
        ("a=1", "a"),
        ("after=7", "id"),
        ("key=%00", "key"),
    ],
)
async def test_a_bad_filter_is_refused_by_name(client: TestClient[Any, Any], query: str, path: str) -> None:
    answer = await client.get(f"/v1/sagas?{query}", headers=TOKEN)

    assert answer.status == 400
    assert (await answer.json())["error"].startswith(f"{path}: ")
