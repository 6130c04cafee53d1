"""The order service: takes orders over HTTP, and tells the world what becomes of them.

Each change of an order and the event that tells it commit in one transaction: `marty.enqueue_event` is a function in
the same database. The order's row is inserted or updated first, which locks it, so its events keep their order.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from aiohttp import web

from shop.catalogue import PRICES_CENTS
from shop.database import Connection
from shop.saga import TABLES as SAGA_TABLES
from shop.saga import Answer, Call, Direction, once
from shop.server import Refused, Service, read_object

TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS orders;
CREATE TABLE IF NOT EXISTS orders (
    order_id    text PRIMARY KEY,
    customer_id text NOT NULL,
    sku         text NOT NULL,
    quantity    bigint NOT NULL CHECK (quantity > 0),
    total_cents bigint NOT NULL CHECK (total_cents >= 0),
    card_token  text NOT NULL,
    status      text NOT NULL DEFAULT 'created' CHECK (status IN ('created', 'processing', 'confirmed', 'cancelled')),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

QUANTITY_LIMIT: Final = 100
CUSTOMER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
CARD_TOKEN: Final = re.compile(r"tok_[a-z0-9]{4,60}")
REQUEST_KEY: Final = re.compile(r"[!-~]{1,200}")
FIELDS: Final = frozenset({"customer_id", "sku", "quantity", "card_token"})


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A valid order that was not placed yet."""

    customer_id: str
    sku: str
    quantity: int
    card_token: str

    @property
    def total_cents(self) -> int:
        return PRICES_CENTS[self.sku] * self.quantity


def new_order(body: Mapping[str, Any]) -> NewOrder:
    """Read the body of `POST /orders`. Raises Refused with the field and what it may be."""
    if unknown := sorted(set(body) - FIELDS):
        raise Refused(422, "unknown_field", f"{unknown[0]}: is no field of an order; there are {sorted(FIELDS)}")
    customer_id = _matching(body, "customer_id", CUSTOMER, "1 to 64 letters, digits, '.', '_' or '-'")
    card_token = _matching(body, "card_token", CARD_TOKEN, "'tok_' and 4 to 60 lower-case letters or digits")
    sku, quantity = body.get("sku"), body.get("quantity")
    if not isinstance(sku, str) or sku not in PRICES_CENTS:
        raise Refused(422, "invalid_sku", f"sku: {sku!r} is not sold; choose one of {sorted(PRICES_CENTS)}")
    if isinstance(quantity, bool) or not isinstance(quantity, int) or not 1 <= quantity <= QUANTITY_LIMIT:
        raise Refused(422, "invalid_quantity", f"quantity: {quantity!r} must be a whole number, 1 to {QUANTITY_LIMIT}")
    return NewOrder(customer_id, sku, quantity, card_token)


def _matching(body: Mapping[str, Any], field: str, pattern: re.Pattern[str], allowed: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Refused(422, f"invalid_{field}", f"{field}: {value!r} must be {allowed}")
    return value


INSERT: Final = """
INSERT INTO orders (order_id, customer_id, sku, quantity, total_cents, card_token)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING order_id, customer_id, sku, quantity, total_cents, card_token, status, created_at
"""

#: (topic, event type, payload, aggregate id, aggregate type)
ENQUEUE: Final = "SELECT marty.enqueue_event('order.events', $1, $2::jsonb, $3, 'order')"


async def place(pool: asyncpg.Pool, request: web.Request) -> Answer:
    """POST /orders: the order and its event, or neither. With an `Idempotency-Key` it is safe to send again."""
    order = new_order(await read_object(request))
    key = request.headers.get("Idempotency-Key", str(uuid.uuid4()))
    if not REQUEST_KEY.fullmatch(key):
        raise Refused(400, "bad_key", "Idempotency-Key must have 1 to 200 printable characters without spaces")
    async with pool.acquire() as connection, connection.transaction():
        return await once(connection, f"order:{key}", lambda: _insert(connection, order))


async def _insert(connection: Connection, order: NewOrder) -> Answer:
    order_id = str(uuid.uuid4())
    row = await connection.fetchrow(
        INSERT, order_id, order.customer_id, order.sku, order.quantity, order.total_cents, order.card_token
    )
    placed = _public(row)
    await _tell(connection, "order_created", order_id, {**placed, "card_token": order.card_token})
    return Answer(201, placed)


async def _tell(connection: Connection, event_type: str, order_id: str, payload: Mapping[str, Any]) -> None:
    await connection.execute(ENQUEUE, event_type, json.dumps(payload), order_id)


def _public(row: asyncpg.Record) -> dict[str, Any]:
    """What everybody may see of an order: not the card."""
    shown = ("order_id", "customer_id", "sku", "quantity", "total_cents", "status")
    return {name: row[name] for name in shown} | {"created_at": row["created_at"].isoformat()}


FIND: Final = """
SELECT order_id, customer_id, sku, quantity, total_cents, status, created_at FROM orders WHERE order_id = $1
"""


async def find(pool: asyncpg.Pool, request: web.Request) -> Answer:
    """GET /orders/{order_id}."""
    order_id = request.match_info["order_id"]
    row = await pool.fetchrow(FIND, order_id)
    if row is None:
        raise Refused(404, "unknown_order", f"there is no order {order_id!r}")
    return Answer(200, _public(row))


#: The row lock of the update is held until the event is in the outbox, so one order's events keep their order.
CHANGE: Final = """
UPDATE orders SET status = $2 WHERE order_id = $1 AND status = ANY($3::text[])
RETURNING order_id, customer_id
"""


async def begin(connection: Connection, call: Call) -> Answer:
    """The saga takes the order on; an order that is over already is refused."""
    order_id = call.text("order_id")
    if await connection.fetchrow(CHANGE, order_id, "processing", ["created", "processing"]) is None:
        return Answer(409, {"error": "not_open", "message": f"there is no open order {order_id!r}"})
    return Answer(200)


async def cancel(connection: Connection, call: Call) -> Answer:
    """The undo of `begin`: the order ends as cancelled, and everybody hears of it once."""
    order_id = call.text("order_id")
    row = await connection.fetchrow(CHANGE, order_id, "cancelled", ["created", "processing"])
    if row is not None:
        await _tell(connection, "order_cancelled", order_id, dict(row))
    return Answer(200)


STATUS: Final = "SELECT status FROM orders WHERE order_id = $1"


async def confirm(connection: Connection, call: Call) -> Answer:
    """The saga's last step: the order is confirmed, and everybody hears of it once."""
    order_id = call.text("order_id")
    row = await connection.fetchrow(CHANGE, order_id, "confirmed", ["processing"])
    if row is not None:
        await _tell(connection, "order_confirmed", order_id, dict(row))
        return Answer(200)
    status = await connection.fetchval(STATUS, order_id)
    if status != "confirmed":
        return Answer(409, {"error": "not_processing", "message": f"order {order_id!r} is {status or 'unknown'}"})
    return Answer(200)


SERVICE: Final = Service(
    schema="orders",
    tables=TABLES + SAGA_TABLES,
    actions={
        "/begin": (Direction.DO, begin),
        "/cancel": (Direction.UNDO, cancel),
        "/confirm": (Direction.DO, confirm),
    },
    routes={("POST", "/orders"): place, ("GET", "/orders/{order_id}"): find},
)
