"""The shop's services on a real Postgres: every call takes effect once, and an undo may arrive before its do."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from shop import inventory, order, payment
from shop.catalogue import PRICES_CENTS
from shop.server import Service, application
from shop.settings import Settings

pytestmark = pytest.mark.postgres

ORDER = {"customer_id": "customer-7", "sku": "lamp", "quantity": 2, "card_token": "tok_00ab1"}
CONTEXT = {"order_id": "o1", "sku": "lamp", "quantity": 2, "total_cents": 6980, "card_token": "tok_00ab1"}

Client = TestClient[Any, Any]


async def started(service: Service, url: str) -> Client:
    client: Client = TestClient(TestServer(application(service, Settings(url, "127.0.0.1", 0, 10))))
    await client.start_server()
    return client


@pytest.fixture
async def stock(empty_postgres_url: str) -> AsyncIterator[Client]:
    client = await started(inventory.SERVICE, empty_postgres_url)
    yield client
    await client.close()


@pytest.fixture
async def bank(empty_postgres_url: str) -> AsyncIterator[Client]:
    client = await started(payment.SERVICE, empty_postgres_url)
    yield client
    await client.close()


@pytest.fixture
async def orders(postgres_url: str) -> AsyncIterator[Client]:
    client = await started(order.SERVICE, postgres_url)
    yield client
    await client.close()


async def call(
    client: Client, action: str, key: str, context: Mapping[str, Any] = CONTEXT
) -> tuple[int, dict[str, Any]]:
    saga_id, step, _, _ = key.rsplit(":", 3)
    body = {"saga_id": saga_id, "step": step, "context": dict(context), "data": {}}
    async with client.post(f"/{action}", json=body, headers={"Idempotency-Key": key}) as response:
        return response.status, await response.json()


async def available(client: Client, sku: str = "lamp") -> int:
    async with client.get("/stock") as response:
        return int((await response.json())[sku]["available"])


async def balance(client: Client) -> dict[str, int]:
    async with client.get("/balance") as response:
        found: dict[str, int] = await response.json()
        return found


async def events(url: str) -> list[tuple[str, str, dict[str, Any]]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT event_type, aggregate_id, payload FROM marty.outbox ORDER BY id")
    finally:
        await connection.close()
    return [(row["event_type"], row["aggregate_id"], json.loads(row["payload"])) for row in rows]


async def place(client: Client, **headers: str) -> tuple[int, dict[str, Any]]:
    async with client.post("/orders", json=ORDER, headers=headers) as response:
        return response.status, await response.json()


async def test_the_catalogue_and_the_stock_know_the_same_products(stock: Client) -> None:
    async with stock.get("/stock") as response:
        assert set(await response.json()) == set(PRICES_CENTS)


async def test_concurrent_duplicates_take_effect_once_and_get_one_answer(stock: Client) -> None:
    before = await available(stock)

    answers = await asyncio.gather(*(call(stock, "reserve", "s1:reserve:do:0") for _ in range(20)))

    assert {json.dumps(answer) for answer in answers} == {json.dumps((200, {"reserved_pieces": 2}))}
    assert await available(stock) == before - 2


async def test_an_undo_puts_back_what_its_do_took_once(stock: Client) -> None:
    before = await available(stock)
    await call(stock, "reserve", "s1:reserve:do:0")

    first = await call(stock, "release", "s1:reserve:undo:0")
    again = await call(stock, "release", "s1:reserve:undo:0")

    assert first == again == (200, {"released_pieces": 2})
    assert await available(stock) == before


async def test_an_undo_before_its_do_succeeds_and_the_late_do_is_refused(stock: Client) -> None:
    before = await available(stock)

    undone, _ = await call(stock, "release", "s1:reserve:undo:0")
    late, refusal = await call(stock, "reserve", "s1:reserve:do:0")

    assert (undone, late, refusal["error"]) == (200, 409, "already_undone")
    assert await available(stock) == before


async def test_a_do_that_races_with_its_undo_leaves_nothing_behind(stock: Client) -> None:
    before = await available(stock)

    for saga in range(15):
        await asyncio.gather(
            call(stock, "reserve", f"s{saga}:reserve:do:0", CONTEXT | {"order_id": f"o{saga}"}),
            call(stock, "release", f"s{saga}:reserve:undo:0", CONTEXT | {"order_id": f"o{saga}"}),
        )

    assert await available(stock) == before


async def test_a_later_round_is_not_bound_by_an_earlier_undo(stock: Client) -> None:
    before = await available(stock)
    await call(stock, "release", "s1:reserve:undo:0")

    status, _ = await call(stock, "reserve", "s1:reserve:do:1")

    assert status == 200
    assert await available(stock) == before - 2


async def test_too_few_pieces_refuse_the_order_and_the_refusal_is_kept(stock: Client) -> None:
    before = await available(stock)
    too_many = CONTEXT | {"quantity": before + 1}

    first = await call(stock, "reserve", "s1:reserve:do:0", too_many)
    again = await call(stock, "reserve", "s1:reserve:do:0", too_many)

    assert first == again
    assert (first[0], first[1]["error"]) == (409, "out_of_stock")
    assert await available(stock) == before


async def test_a_call_that_breaks_the_contract_changes_nothing(stock: Client) -> None:
    before = await available(stock)

    wrong_way, _ = await call(stock, "reserve", "s1:reserve:undo:0")
    no_order, _ = await call(stock, "reserve", "s2:reserve:do:0", {"sku": "lamp", "quantity": 2})

    assert (wrong_way, no_order) == (400, 400)
    assert await available(stock) == before


async def test_a_charge_is_booked_once_and_refunded_once(bank: Client) -> None:
    await asyncio.gather(*(call(bank, "charge", "s1:charge:do:0") for _ in range(10)))
    assert await balance(bank) == {"charged_cents": 6980, "refunded_cents": 0, "balance_cents": 6980}

    await asyncio.gather(*(call(bank, "refund", "s1:charge:undo:0") for _ in range(10)))
    assert await balance(bank) == {"charged_cents": 6980, "refunded_cents": 6980, "balance_cents": 0}


async def test_a_card_that_ends_in_0_is_declined_and_nothing_is_booked(bank: Client) -> None:
    status, answer = await call(bank, "charge", "s1:charge:do:0", CONTEXT | {"card_token": "tok_00ab0"})
    refunded = await call(bank, "refund", "s1:charge:undo:0")

    assert (status, answer["error"]) == (402, "card_declined")
    assert refunded == (200, {"refunded_cents": 0})
    assert (await balance(bank))["charged_cents"] == 0


async def test_an_order_and_its_event_commit_together(orders: Client, postgres_url: str) -> None:
    status, placed = await place(orders)

    assert (status, placed["status"], placed["total_cents"]) == (201, "created", 6980)
    ((event_type, order_id, payload),) = await events(postgres_url)
    assert (event_type, order_id) == ("order_created", placed["order_id"])
    assert payload == {**placed, "card_token": ORDER["card_token"]}


async def test_an_order_that_cannot_be_told_is_not_placed(orders: Client, conn: asyncpg.Connection) -> None:
    await conn.execute("DROP FUNCTION marty.enqueue_event")

    status, answer = await place(orders)

    assert (status, answer["error"]) == (500, "internal")
    assert await conn.fetchval("SELECT count(*) FROM orders.orders") == 0


async def test_an_order_sent_again_with_its_key_is_placed_once(orders: Client, postgres_url: str) -> None:
    answers = await asyncio.gather(*(place(orders, **{"Idempotency-Key": "k1"}) for _ in range(10)))

    assert len({answer["order_id"] for _, answer in answers}) == 1
    assert len(await events(postgres_url)) == 1


async def test_a_placed_order_can_be_read_without_its_card(orders: Client) -> None:
    _, placed = await place(orders)

    async with orders.get(f"/orders/{placed['order_id']}") as response:
        assert await response.json() == placed
    async with orders.get("/orders/nobody") as response:
        assert (response.status, (await response.json())["error"]) == (404, "unknown_order")


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        (b"{", 400, "no_json"),
        (b"[]", 400, "no_object"),
        (b"{}", 422, "invalid_customer_id"),
        (b"x" * 70_000, 413, "request_entity_too_large"),
    ],
)
async def test_a_bad_order_is_refused_with_a_word_for_programs(
    orders: Client, content: bytes, status: int, error: str
) -> None:
    async with orders.post("/orders", data=content) as response:
        assert (response.status, (await response.json())["error"]) == (status, error)


@pytest.mark.parametrize(
    ("actions", "status", "told"),
    [
        (["begin:do", "confirm:do", "confirm:do"], "confirmed", ["order_created", "order_confirmed"]),
        (["begin:do", "cancel:undo", "cancel:undo"], "cancelled", ["order_created", "order_cancelled"]),
        (["cancel:undo", "begin:do"], "cancelled", ["order_created", "order_cancelled"]),
    ],
)
async def test_the_saga_drives_an_order_to_its_end_and_tells_it_once(
    orders: Client, postgres_url: str, actions: list[str], status: str, told: list[str]
) -> None:
    _, placed = await place(orders)
    for number, (action, direction) in enumerate(action.split(":") for action in actions):
        step = "begin" if action in {"begin", "cancel"} else action
        # A new round per repetition: the order's own state, not only the kept answer, must hold.
        await call(orders, action, f"s1:{step}:{direction}:{number if action == 'confirm' else 0}", placed)

    async with orders.get(f"/orders/{placed['order_id']}") as response:
        assert (await response.json())["status"] == status
    assert [event_type for event_type, _, _ in await events(postgres_url)] == told


async def test_an_unknown_order_cannot_be_begun_or_confirmed(orders: Client) -> None:
    begun, _ = await call(orders, "begin", "s1:begin:do:0")
    confirmed, _ = await call(orders, "confirm", "s1:confirm:do:0")

    assert (begun, confirmed) == (409, 409)


async def test_readiness_follows_the_database(orders: Client, admin_url: str, postgres_url: str) -> None:
    async with orders.get("/readyz") as response:
        assert response.status == 200
    name = postgres_url.rpartition("/")[2]
    admin = await asyncpg.connect(admin_url)
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        async with orders.get("/readyz") as response:
            assert response.status == 503
        async with orders.get("/healthz") as response:
            assert response.status == 200
    finally:
        await admin.close()
