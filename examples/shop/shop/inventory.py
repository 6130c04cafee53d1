"""The inventory service: takes pieces out of the stock for an order, and puts them back."""

from typing import Final

import asyncpg
from aiohttp import web

from shop.database import Connection
from shop.saga import TABLES as SAGA_TABLES
from shop.saga import Answer, Call, Direction
from shop.server import Service

#: `movements` is only ever added to: what was taken and put back stays visible, and its sum must give the stock.
TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS inventory;
CREATE TABLE IF NOT EXISTS stock (
    sku       text PRIMARY KEY,
    opening   bigint NOT NULL,
    available bigint NOT NULL CHECK (available >= 0)
);
CREATE TABLE IF NOT EXISTS movements (
    movement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    text NOT NULL,
    sku         text NOT NULL REFERENCES stock (sku),
    pieces      bigint NOT NULL CHECK (pieces <> 0)
);
CREATE INDEX IF NOT EXISTS movements_order_id ON movements (order_id);
INSERT INTO stock (sku, opening, available)
SELECT sku, 1000000, 1000000
  FROM unnest(ARRAY['bicycle', 'helmet', 'lamp', 'lock', 'pump', 'saddle']) AS sku
    ON CONFLICT (sku) DO NOTHING;
"""

TAKE: Final = """
UPDATE stock SET available = available - $2
 WHERE sku = $1 AND available >= $2
RETURNING available
"""

PUT_BACK: Final = "UPDATE stock SET available = available + $2 WHERE sku = $1"

RECORD: Final = "INSERT INTO movements (order_id, sku, pieces) VALUES ($1, $2, $3)"

TAKEN: Final = """
SELECT sku, -sum(pieces)::bigint AS pieces
  FROM movements
 WHERE order_id = $1
 GROUP BY sku
HAVING sum(pieces) < 0
"""


async def reserve(connection: Connection, call: Call) -> Answer:
    """Take the order's pieces out of the stock; too few of them refuse the order."""
    order_id, sku, quantity = call.text("order_id"), call.text("sku"), call.number("quantity")
    if await connection.fetchval(TAKE, sku, quantity) is None:
        return Answer(409, {"error": "out_of_stock", "message": f"fewer than {quantity} of {sku!r} are left"})
    await connection.execute(RECORD, order_id, sku, -quantity)
    return Answer(200, {"reserved_pieces": quantity})


async def release(connection: Connection, call: Call) -> Answer:
    """Put back what the order took: everything, or nothing when the reservation never happened."""
    order_id = call.text("order_id")
    taken = await connection.fetch(TAKEN, order_id)
    for row in taken:
        await connection.execute(PUT_BACK, row["sku"], row["pieces"])
        await connection.execute(RECORD, order_id, row["sku"], row["pieces"])
    return Answer(200, {"released_pieces": sum(row["pieces"] for row in taken)})


STOCK: Final = "SELECT sku, opening, available FROM stock ORDER BY sku"


async def stock(pool: asyncpg.Pool, _: web.Request) -> Answer:
    """GET /stock: how many pieces of each product there were and are."""
    rows = await pool.fetch(STOCK)
    return Answer(200, {row["sku"]: {"opening": row["opening"], "available": row["available"]} for row in rows})


SERVICE: Final = Service(
    schema="inventory",
    tables=TABLES + SAGA_TABLES,
    actions={"/reserve": (Direction.DO, reserve), "/release": (Direction.UNDO, release)},
    routes={("GET", "/stock"): stock},
)
