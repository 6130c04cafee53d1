"""What the demo knows when it checks: plain values read from the shop, the outbox, Kafka and the cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """A row of the order service."""

    order_id: str
    customer_id: str
    sku: str
    quantity: int
    total_cents: int
    card_token: str
    status: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One execution of the saga; its business key is the order's id."""

    business_key: str
    state: str


@dataclass(frozen=True, slots=True)
class Stock:
    sku: str
    opening: int
    available: int


@dataclass(frozen=True, slots=True)
class Movement:
    """Pieces of one order taken from the stock (negative) or put back (positive)."""

    order_id: str
    sku: str
    pieces: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Money of one order charged (positive) or refunded (negative)."""

    order_id: str
    amount_cents: int


@dataclass(frozen=True, slots=True)
class Enqueued:
    """An event as the ledger saw it enter the outbox; `sequence` is its order within one order id."""

    sequence: int
    event_id: str
    order_id: str


@dataclass(frozen=True, slots=True)
class Published:
    """A message as a foreign Kafka client read it."""

    partition: int
    offset: int
    event_id: str
    order_id: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of the read model."""

    order_id: str
    customer_id: str
    status: str
    total_cents: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the check table is computed from. All orders the database has ever seen count, not only this run's."""

    #: Orders that the service acknowledged: those that existed before the run, and those it answered with 201.
    acknowledged: frozenset[str]
    orders: Sequence[Order]
    instances: Sequence[Instance]
    stock: Sequence[Stock]
    movements: Sequence[Movement]
    entries: Sequence[Entry]
    enqueued: Sequence[Enqueued]
    published: Sequence[Published]
    summaries: Sequence[Summary]
    #: Numbers of the resources' status, and the same numbers counted from rows: `saga/order-processing active` to value.
    shown: Mapping[str, int]
    counted: Mapping[str, int]
