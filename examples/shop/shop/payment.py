"""The payment service: charges a card for an order, and pays the money back."""

from typing import Final

import asyncpg
from aiohttp import web

from shop.database import Connection
from shop.saga import TABLES as SAGA_TABLES
from shop.saga import Answer, Call, Direction
from shop.server import Service

#: Only ever added to: a charge is positive, a refund is its opposite, and the sum is what the shop has earned.
TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS payments;
CREATE TABLE IF NOT EXISTS entries (
    entry_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id     text NOT NULL,
    amount_cents bigint NOT NULL CHECK (amount_cents <> 0),
    booked_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS entries_order_id ON entries (order_id);
"""

BOOK: Final = "INSERT INTO entries (order_id, amount_cents) VALUES ($1, $2)"

PAID: Final = "SELECT coalesce(sum(amount_cents), 0)::bigint FROM entries WHERE order_id = $1"


def declined(card_token: str) -> bool:
    """The bank's part in this example: it declines every card whose token ends in 0, so about one order in ten."""
    return card_token.endswith("0")


async def charge(connection: Connection, call: Call) -> Answer:
    """Charge the order's total, unless the bank declines the card."""
    order_id, total_cents, card_token = call.text("order_id"), call.number("total_cents"), call.text("card_token")
    if declined(card_token):
        return Answer(402, {"error": "card_declined", "message": "the bank declined the card"})
    await connection.execute(BOOK, order_id, total_cents)
    return Answer(200, {"charged_cents": total_cents})


async def refund(connection: Connection, call: Call) -> Answer:
    """Pay back what the order paid, which is nothing when the charge never happened."""
    order_id = call.text("order_id")
    paid = await connection.fetchval(PAID, order_id)
    if paid:
        await connection.execute(BOOK, order_id, -paid)
    return Answer(200, {"refunded_cents": paid})


BALANCE: Final = """
SELECT coalesce(sum(amount_cents) FILTER (WHERE amount_cents > 0), 0)::bigint AS charged,
       coalesce(-sum(amount_cents) FILTER (WHERE amount_cents < 0), 0)::bigint AS refunded
  FROM entries
"""


async def balance(pool: asyncpg.Pool, _: web.Request) -> Answer:
    """GET /balance: what was charged, refunded and kept, in cents."""
    row = await pool.fetchrow(BALANCE)
    charged, refunded = row["charged"], row["refunded"]
    body = {"charged_cents": charged, "refunded_cents": refunded, "balance_cents": charged - refunded}
    return Answer(200, body)


SERVICE: Final = Service(
    schema="payments",
    tables=TABLES + SAGA_TABLES,
    actions={"/charge": (Direction.DO, charge), "/refund": (Direction.UNDO, refund)},
    routes={("GET", "/balance"): balance},
)
