"""A service whose steps are called over Kafka. Each is done once, however often its command comes."""

from collections.abc import Mapping
from typing import Any, Final

from asyncpg import Connection

from marty_msf.patterns.choreography import EventBus
from marty_msf.patterns.saga import StepCommand, StepCommands, StepRejected

TABLES: Final = """
CREATE TABLE IF NOT EXISTS accounts (
    customer text PRIMARY KEY,
    balance  bigint NOT NULL CHECK (balance >= 0)
);
CREATE TABLE IF NOT EXISTS bookings (
    booking_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   text   NOT NULL,
    amount     bigint NOT NULL
);
"""

TAKE: Final = "UPDATE accounts SET balance = balance - $2 WHERE customer = $1 AND balance >= $2 RETURNING 1"
GIVE_BACK: Final = "UPDATE accounts SET balance = balance + $2 WHERE customer = $1"
BOOK: Final = "INSERT INTO bookings (order_id, amount) VALUES ($1, $2) RETURNING booking_id"
#: What the accountants do not book.
LIMIT: Final = 1000


def serve(bus: EventBus) -> None:
    """Let the bus handle the commands of this service."""
    commands = StepCommands(bus)
    commands.handler("charge")(charge)
    commands.handler("refund")(refund)
    commands.handler("book")(book)


async def charge(command: StepCommand) -> Mapping[str, Any]:
    order = command.context
    if not await command.connection.fetchval(TAKE, order["customer"], order["amount"]):
        raise StepRejected("not enough money")
    return {"charged": order["amount"]}


async def refund(command: StepCommand) -> None:
    """Called only for what was charged here: a charge that comes after its refund is rejected."""
    await command.connection.execute(GIVE_BACK, command.context["customer"], command.result["charged"])


async def book(command: StepCommand) -> Mapping[str, Any]:
    order = command.context
    if order["amount"] > LIMIT:
        raise StepRejected(f"over {LIMIT}")
    return {"booking": await command.connection.fetchval(BOOK, order["order_id"], order["charged"])}


async def create_tables(connection: Connection) -> None:
    await connection.execute(TABLES)
