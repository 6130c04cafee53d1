"""The services. Each changes its own tables and publishes what follows in one transaction.

Nothing here looks for duplicates: the bus hands each event to each service once, however often Kafka delivers it.
"""

from typing import Final

from asyncpg import Connection

from marty_msf.patterns.choreography import Event, EventBus

TABLES: Final = """
CREATE TABLE IF NOT EXISTS orders (
    order_id text PRIMARY KEY,
    status   text NOT NULL DEFAULT 'created' CHECK (status IN ('created', 'confirmed', 'cancelled'))
);
CREATE TABLE IF NOT EXISTS stock (
    product_id text PRIMARY KEY,
    available  bigint NOT NULL CHECK (available >= 0)
);
CREATE TABLE IF NOT EXISTS payments (
    payment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   text   NOT NULL,
    amount     bigint NOT NULL
);
"""

INSERT_ORDER: Final = "INSERT INTO orders (order_id) VALUES ($1)"
END_ORDER: Final = "UPDATE orders SET status = $2 WHERE order_id = $1"
TAKE: Final = "UPDATE stock SET available = available - $2 WHERE product_id = $1 AND available >= $2 RETURNING 1"
PUT_BACK: Final = "UPDATE stock SET available = available + $2 WHERE product_id = $1"
PAY: Final = "INSERT INTO payments (order_id, amount) VALUES ($1, $2)"


class OrderService:
    """Takes orders, and hears how they end."""

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        event_bus.subscribe("order_created", self.handle_order_created)
        event_bus.subscribe("order.paid", self.handle_paid)
        event_bus.subscribe("order.refused", self.handle_refused)

    async def place(self, order_id: str, product_id: str, quantity: int, amount: int) -> None:
        """The order and its event, or neither."""
        order = {"order_id": order_id, "product_id": product_id, "quantity": quantity, "amount": amount}
        async with self.event_bus.transaction() as connection:
            await connection.execute(INSERT_ORDER, order_id)
            await self.event_bus.publish("order_created", order, aggregate_id=order_id, aggregate_type="order")

    async def handle_order_created(self, event: Event) -> None:
        """Publish the event for the next service."""
        await self.event_bus.publish("order.inventory.check", event.data)

    async def handle_paid(self, event: Event) -> None:
        await event.connection.execute(END_ORDER, event.aggregate_id, "confirmed")

    async def handle_refused(self, event: Event) -> None:
        await event.connection.execute(END_ORDER, event.aggregate_id, "cancelled")


class InventoryService:
    """Takes pieces out of the stock, and puts them back when nobody pays for them."""

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        event_bus.subscribe("order.inventory.check", self.handle_inventory_check)
        event_bus.subscribe("order.payment.refused", self.handle_payment_refused)

    async def handle_inventory_check(self, event: Event) -> None:
        """Take the pieces, and publish what follows."""
        taken = await event.connection.fetchval(TAKE, event.data["product_id"], event.data["quantity"])
        await self.event_bus.publish("order.payment.process" if taken else "order.refused", event.data)

    async def handle_payment_refused(self, event: Event) -> None:
        """Undo what this service did for the order."""
        await event.connection.execute(PUT_BACK, event.data["product_id"], event.data["quantity"])
        await self.event_bus.publish("order.refused", event.data)


class PaymentService:
    """Takes the money, up to a limit."""

    LIMIT: Final = 1000

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        event_bus.subscribe("order.payment.process", self.handle_payment)

    async def handle_payment(self, event: Event) -> None:
        """Pay, or refuse."""
        if event.data["amount"] > self.LIMIT:
            await self.event_bus.publish("order.payment.refused", event.data)
            return
        await event.connection.execute(PAY, event.data["order_id"], event.data["amount"])
        await self.event_bus.publish("order.paid", event.data)


SERVICES: Final = {"orders": OrderService, "inventory": InventoryService, "payments": PaymentService}


async def create_tables(connection: Connection) -> None:
    """All tables of the example, in one database."""
    await connection.execute(TABLES)
