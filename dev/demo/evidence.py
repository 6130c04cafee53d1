"""Reads the facts of the check table: rows by SQL, messages by a foreign client, status by kubectl."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import asyncpg

from dev.demo import broker, facts
from dev.demo.checks import COMPENSATED, COMPLETED
from dev.demo.facts import Facts, Instance, Published
from dev.demo.kubectl import Kubectl
from dev.demo.manifests import NAMESPACE
from dev.demo.target import RESOURCES

KINDS: Final = "sagas,outboxrelays,projections"
PARKED: Final = "Parked"

ORDERS: Final = """
SELECT order_id, customer_id, sku, quantity, total_cents, card_token, status FROM orders.orders
"""
ORDER_IDS: Final = "SELECT order_id FROM orders.orders"
STOCK: Final = "SELECT sku, opening, available FROM inventory.stock"
MOVEMENTS: Final = "SELECT order_id, sku, pieces FROM inventory.movements"
ENTRIES: Final = "SELECT order_id, amount_cents FROM payments.entries"
ENQUEUED: Final = "SELECT sequence, event_id::text AS event_id, order_id FROM ledger.enqueued"
SUMMARIES: Final = "SELECT order_id, customer_id, status, total_cents FROM public.order_summary"
INSTANCES: Final = "SELECT business_key, state FROM marty.saga_instance WHERE resource = $1"
#: $2: whether they are active.
SAGAS: Final = """
SELECT count(*) FROM marty.saga_instance
 WHERE resource = $1 AND (state IN ('Pending', 'Running', 'Compensating')) = $2
"""
UNTOLD: Final = """
SELECT (SELECT count(*) FROM orders.orders)
     - (SELECT count(*) FROM public.order_summary WHERE status IN ('confirmed', 'cancelled'))
"""

SAGA: Final = f"{NAMESPACE}/{RESOURCES['Saga']}"


async def order_ids(database: asyncpg.Connection) -> frozenset[str]:
    return frozenset(row["order_id"] for row in await database.fetch(ORDER_IDS))


async def active_sagas(database: asyncpg.Connection) -> int:
    """Instances that have begun and not ended."""
    return int(await database.fetchval(SAGAS, SAGA, True))


async def ended_sagas(database: asyncpg.Connection) -> int:
    """Instances that have ended, or wait for a person."""
    return int(await database.fetchval(SAGAS, SAGA, False))


async def unfinished(database: asyncpg.Connection) -> int:
    """Orders whose end has not reached the read model yet, and sagas that have not ended."""
    return int(await database.fetchval(UNTOLD)) + await active_sagas(database)


async def collect(
    database: asyncpg.Connection, bootstrap: str, kubectl: Kubectl, acknowledged: Collection[str]
) -> Facts:
    """All facts at rest: call it when nothing moves any more."""
    published, shown = await asyncio.gather(
        asyncio.to_thread(broker.read_topic, bootstrap), asyncio.to_thread(status_numbers, kubectl)
    )
    async with database.transaction(isolation="repeatable_read", readonly=True):
        instances = [facts.Instance(**row) for row in await database.fetch(INSTANCES, SAGA)]
        enqueued = [facts.Enqueued(**row) for row in await database.fetch(ENQUEUED)]
        return Facts(
            acknowledged=frozenset(acknowledged),
            orders=[facts.Order(**row) for row in await database.fetch(ORDERS)],
            instances=instances,
            stock=[facts.Stock(**row) for row in await database.fetch(STOCK)],
            movements=[facts.Movement(**row) for row in await database.fetch(MOVEMENTS)],
            entries=[facts.Entry(**row) for row in await database.fetch(ENTRIES)],
            enqueued=enqueued,
            published=published,
            summaries=[facts.Summary(**row) for row in await database.fetch(SUMMARIES)],
            shown=shown,
            counted=numbers_from_rows(instances, len(enqueued), published),
        )


def numbers_from_rows(instances: Sequence[Instance], enqueued: int, published: Sequence[Published]) -> dict[str, int]:
    """What the resources' status must say when nothing moves. Pure."""
    states = Counter(instance.state for instance in instances)
    ended = states[COMPLETED] + states[COMPENSATED] + states[PARKED]
    distinct = len({message.event_id for message in published})
    saga, relay, projection = (f"{kind} {name}" for kind, name in RESOURCES.items())
    return {
        f"{saga} active": len(instances) - ended,
        f"{saga} completed": states[COMPLETED],
        f"{saga} compensated": states[COMPENSATED],
        f"{saga} parked": states[PARKED],
        f"{relay} pending": enqueued - distinct,
        f"{relay} publishedTotal": enqueued,
        f"{projection} processedTotal": distinct,
        f"{projection} duplicatesTotal": len(published) - distinct,
        f"{projection} lag": 0,
    }


#: The numbers of each kind's status that have a counterpart in rows.
NUMBERS: Final[Mapping[str, Sequence[str]]] = {
    "Saga": ("active", "completed", "compensated", "parked"),
    "OutboxRelay": ("pending", "publishedTotal"),
    "Projection": ("processedTotal", "duplicatesTotal", "lag"),
}


def status_numbers(kubectl: Kubectl) -> dict[str, int]:
    """The same numbers as the resources' status shows them."""
    return shown_numbers(kubectl.items(KINDS, NAMESPACE))


def shown_numbers(resources: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Pure. A number that a status lacks is left out, so that the comparison fails."""
    return {
        f"{resource['kind']} {resource['metadata']['name']} {number}": resource["status"][number]
        for resource in resources
        for number in NUMBERS[resource["kind"]]
        if number in resource.get("status", {})
    }
