"""The check table of the demo, computed from facts alone: nothing here reads a database, a topic or a cluster."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeVar

from dev.demo.facts import Facts, Order, Published, Summary

COMPLETED: Final = "Completed"
COMPENSATED: Final = "Compensated"
#: How the order service calls an order whose saga ended so.
STATUS_OF: Final = {COMPLETED: "confirmed", COMPENSATED: "cancelled"}


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what the data says must be, what was found, and every id that differs."""

    name: str
    expected: str
    found: str
    differing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.expected == self.found and not self.differing


def outcome(order: Order) -> str:
    """How the order's saga must end. The data alone decides: the bank declines cards whose token ends in 0."""
    return COMPENSATED if order.card_token[-1:] == "0" else COMPLETED


def check_all(facts: Facts) -> tuple[Check, ...]:
    """The whole table, in the order it is printed."""
    checks: Sequence[Callable[[Facts], Check]] = (
        orders_and_sagas,
        outcomes,
        inventory,
        payments,
        events_in_kafka,
        order_of_events,
        read_model,
        status_numbers,
    )
    return tuple(check(facts) for check in checks)


def orders_and_sagas(facts: Facts) -> Check:
    """Every acknowledged order exists, and exactly one saga of it has ended."""
    stored = {order.order_id for order in facts.orders}
    ended = Counter(instance.business_key for instance in facts.instances if instance.state in STATUS_OF)
    differing = (stored ^ facts.acknowledged) | {key for key in stored | set(ended) if ended[key] != int(key in stored)}
    differing |= {instance.business_key for instance in facts.instances if instance.state not in STATUS_OF}
    return _check("orders placed = sagas ended", len(facts.acknowledged), ended.total(), differing)


def outcomes(facts: Facts) -> Check:
    """Sagas completed or compensated, and the orders confirmed or cancelled, as the orders' data says."""
    expected = {order.order_id: outcome(order) for order in facts.orders}
    found = {instance.business_key: instance.state for instance in facts.instances}
    differing = _differing_keys(expected, found)
    differing |= {order.order_id for order in facts.orders if order.status != STATUS_OF[outcome(order)]}
    return _check("completed / compensated", _tally(expected.values()), _tally(found.values()), differing)


def _tally(states: Iterable[str]) -> str:
    counted = Counter(states)
    return f"{counted[COMPLETED]} / {counted[COMPENSATED]}"


def inventory(facts: Facts) -> Check:
    """The stock lost exactly the pieces of the confirmed orders, each taken once."""
    expected: dict[tuple[str, str], int] = {
        (order.order_id, order.sku): order.quantity for order in facts.orders if outcome(order) == COMPLETED
    }
    taken: defaultdict[tuple[str, str], int] = defaultdict(int)
    for movement in facts.movements:
        taken[movement.order_id, movement.sku] -= movement.pieces
    differing = {order_id for order_id, _ in _differing_keys(expected, {key: n for key, n in taken.items() if n})}
    lost = {stock.sku: stock.opening - stock.available for stock in facts.stock}
    moved: Counter[str] = Counter()
    for (_, sku), pieces in taken.items():
        moved[sku] += pieces
    differing |= {sku for sku in lost.keys() | moved.keys() if lost.get(sku) != moved[sku]}
    return _check("inventory: pieces gone = pieces sold", sum(expected.values()), sum(lost.values()), differing)


def payments(facts: Facts) -> Check:
    """The money kept is exactly the total of the confirmed orders, each charged once."""
    expected = {order.order_id: order.total_cents for order in facts.orders if outcome(order) == COMPLETED}
    kept: defaultdict[str, int] = defaultdict(int)
    for entry in facts.entries:
        kept[entry.order_id] += entry.amount_cents
    differing = _differing_keys(expected, {key: cents for key, cents in kept.items() if cents})
    return _check("payments: cents kept = cents due", sum(expected.values()), sum(kept.values()), differing)


def events_in_kafka(facts: Facts) -> Check:
    """No event is missing in Kafka, and none is there that nobody enqueued. Repetitions are allowed."""
    expected = {event.event_id for event in facts.enqueued}
    found = {message.event_id for message in facts.published}
    return _check("distinct events in Kafka = events enqueued", len(expected), len(found), expected ^ found)


def order_of_events(facts: Facts) -> Check:
    """For each order id, the first appearances of its events in Kafka have the order in which they were enqueued."""
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for event in sorted(facts.enqueued, key=lambda event: event.sequence):
        expected[event.order_id].append(event.event_id)
    found = {order_id: _first_appearances(messages) for order_id, messages in _by_order(facts.published)}
    differing = _differing_keys(expected, found)
    return _check("order ids with their events in order", len(expected), len(found.keys() - differing), differing)


def _by_order(messages: Sequence[Published]) -> Iterable[tuple[str, list[Published]]]:
    ordered = sorted(messages, key=lambda message: (message.order_id, message.offset))
    return ((order_id, list(group)) for order_id, group in groupby(ordered, key=lambda message: message.order_id))


def _first_appearances(messages: Sequence[Published]) -> list[str]:
    """Event ids by offset; an order id spread over two partitions has no order at all."""
    if len({message.partition for message in messages}) > 1:
        return []
    return list(dict.fromkeys(message.event_id for message in messages))


def read_model(facts: Facts) -> Check:
    """Each row of order_summary is what the order service knows, and there is one for each order."""
    expected = {
        order.order_id: Summary(order.order_id, order.customer_id, order.status, order.total_cents)
        for order in facts.orders
    }
    found = {summary.order_id: summary for summary in facts.summaries}
    differing = _differing_keys(expected, found)
    return _check("order_summary = orders in the services", len(expected), len(found), differing)


def status_numbers(facts: Facts) -> Check:
    """`kubectl get` tells the truth: each number in a resource's status is the number that the rows give."""
    differing = {
        f"{name}: status {facts.shown.get(name, 'none')}, rows {facts.counted.get(name, 'none')}"
        for name in _differing_keys(facts.counted, facts.shown)
    }
    return _check("numbers in status = numbers from rows", len(facts.counted), len(facts.shown), differing)


Key = TypeVar("Key")


def _differing_keys(expected: Mapping[Key, object], found: Mapping[Key, object]) -> set[Key]:
    return {key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)}


def _check(name: str, expected: object, found: object, differing: Iterable[str]) -> Check:
    return Check(name, str(expected), str(found), tuple(sorted(differing)))
