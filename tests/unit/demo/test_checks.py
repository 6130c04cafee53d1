"""The check table: it holds on a shop that did everything right, and each check fails when its own thing went wrong."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from dev.demo.checks import Check, check_all, outcome
from dev.demo.facts import Enqueued, Entry, Facts, Instance, Movement, Order, Published, Stock, Summary

SOLD = Order("o1", "c1", "lamp", 2, 6980, "tok_00ab1", "confirmed")
DECLINED = Order("o2", "c2", "lamp", 3, 10470, "tok_00ab0", "cancelled")

GOOD = Facts(
    acknowledged=frozenset({"o1", "o2"}),
    orders=(SOLD, DECLINED),
    instances=(Instance("o1", "Completed"), Instance("o2", "Compensated")),
    stock=(Stock("lamp", 100, 98), Stock("pump", 50, 50)),
    movements=(Movement("o1", "lamp", -2), Movement("o2", "lamp", -3), Movement("o2", "lamp", 3)),
    entries=(Entry("o1", 6980),),
    enqueued=(Enqueued(1, "e1", "o1"), Enqueued(2, "e2", "o2"), Enqueued(3, "e3", "o1"), Enqueued(4, "e4", "o2")),
    published=(
        Published(0, 0, "e1", "o1"),
        Published(0, 1, "e3", "o1"),
        Published(0, 2, "e1", "o1"),  # sent again after a crash: allowed
        Published(3, 0, "e2", "o2"),
        Published(3, 1, "e4", "o2"),
    ),
    summaries=(Summary("o1", "c1", "confirmed", 6980), Summary("o2", "c2", "cancelled", 10470)),
    shown={"Saga order-processing completed": 1},
    counted={"Saga order-processing completed": 1},
)


def failing(facts: Facts) -> list[Check]:
    return [check for check in check_all(facts) if not check.ok]


def test_a_shop_that_did_everything_right_passes() -> None:
    assert failing(GOOD) == []


def test_the_table_shows_the_figures() -> None:
    assert [(check.expected, check.found) for check in check_all(GOOD)] == [
        ("2", "2"),
        ("1 / 1", "1 / 1"),
        ("2", "2"),
        ("6980", "6980"),
        ("4", "4"),
        ("2", "2"),
        ("2", "2"),
        ("1", "1"),
    ]


@pytest.mark.parametrize(("card", "end"), [("tok_ab10", "Compensated"), ("tok_0001", "Completed")])
def test_the_card_decides_the_outcome(card: str, end: str) -> None:
    assert outcome(replace(SOLD, card_token=card)) == end


ORDERS, OUTCOMES, INVENTORY, PAYMENTS, KAFKA, SEQUENCE, READ_MODEL, STATUS = (check.name for check in check_all(GOOD))

#: What went wrong, the check that must say so, and an id that it must name.
DAMAGES: list[tuple[str, Callable[[Facts], Facts], str, str]] = [
    ("an acknowledged order is lost", lambda f: replace(f, acknowledged=f.acknowledged | {"o3"}), ORDERS, "o3"),
    ("an order appears from nowhere", lambda f: replace(f, acknowledged=frozenset({"o1"})), ORDERS, "o2"),
    ("a saga is missing", lambda f: replace(f, instances=f.instances[:1]), ORDERS, "o2"),
    ("a saga ran twice", lambda f: replace(f, instances=(*f.instances, f.instances[0])), ORDERS, "o1"),
    ("a saga of no order", lambda f: replace(f, instances=(*f.instances, Instance("x", "Completed"))), ORDERS, "x"),
    (
        "a saga still runs",
        lambda f: replace(f, instances=(f.instances[0], Instance("o2", "Running"))),
        ORDERS,
        "o2",
    ),
    (
        "a saga of no order is parked",
        lambda f: replace(f, instances=(*f.instances, Instance("x", "Parked"))),
        ORDERS,
        "x",
    ),
    (
        "a declined order completed",
        lambda f: replace(f, instances=(f.instances[0], Instance("o2", "Completed"))),
        OUTCOMES,
        "o2",
    ),
    (
        "two sagas changed places",
        lambda f: replace(f, instances=(Instance("o1", "Compensated"), Instance("o2", "Completed"))),
        OUTCOMES,
        "o1",
    ),
    (
        "an order's status differs from its saga",
        lambda f: replace(f, orders=(replace(SOLD, status="processing"), DECLINED)),
        OUTCOMES,
        "o1",
    ),
    ("a reservation is missing", lambda f: replace(f, movements=f.movements[1:]), INVENTORY, "o1"),
    ("a reservation was made twice", lambda f: replace(f, movements=(*f.movements, f.movements[0])), INVENTORY, "o1"),
    ("a reservation was not put back", lambda f: replace(f, movements=f.movements[:2]), INVENTORY, "o2"),
    (
        "pieces of another product were taken",
        lambda f: replace(f, movements=(Movement("o1", "pump", -2), *f.movements[1:])),
        INVENTORY,
        "o1",
    ),
    (
        "the stock lost a piece that nobody took",
        lambda f: replace(f, stock=(Stock("lamp", 100, 97), f.stock[1])),
        INVENTORY,
        "lamp",
    ),
    ("a charge is missing", lambda f: replace(f, entries=()), PAYMENTS, "o1"),
    ("an order was charged twice", lambda f: replace(f, entries=(*f.entries, f.entries[0])), PAYMENTS, "o1"),
    ("a declined order was charged", lambda f: replace(f, entries=(*f.entries, Entry("o2", 10470))), PAYMENTS, "o2"),
    (
        "two orders paid for each other",
        lambda f: replace(f, entries=(Entry("o1", 6979), Entry("o2", 1))),
        PAYMENTS,
        "o2",
    ),
    ("an event is missing in Kafka", lambda f: replace(f, published=f.published[:-1]), KAFKA, "e4"),
    (
        "an event in Kafka that nobody enqueued",
        lambda f: replace(f, published=(*f.published, Published(3, 2, "ghost", "o2"))),
        KAFKA,
        "ghost",
    ),
    (
        "two events of an order changed places",
        lambda f: replace(f, published=(Published(0, 0, "e3", "o1"), Published(0, 1, "e1", "o1"), *f.published[3:])),
        SEQUENCE,
        "o1",
    ),
    (
        "an order's events went to two partitions",
        lambda f: replace(f, published=(f.published[0], Published(1, 1, "e3", "o1"), *f.published[3:])),
        SEQUENCE,
        "o1",
    ),
    ("the read model lacks an order", lambda f: replace(f, summaries=f.summaries[:1]), READ_MODEL, "o2"),
    (
        "the read model has an order of nobody",
        lambda f: replace(f, summaries=(*f.summaries, Summary("x", "c", "confirmed", 1))),
        READ_MODEL,
        "x",
    ),
    (
        "the read model is behind",
        lambda f: replace(f, summaries=(replace(f.summaries[0], status="created"), f.summaries[1])),
        READ_MODEL,
        "o1",
    ),
    (
        "a status counts wrongly",
        lambda f: replace(f, shown={"Saga order-processing completed": 2}),
        STATUS,
        "Saga order-processing completed: status 2, rows 1",
    ),
    (
        "a status says nothing",
        lambda f: replace(f, shown={}),
        STATUS,
        "Saga order-processing completed: status none, rows 1",
    ),
]


@pytest.mark.parametrize(
    ("damage", "check", "named"), [row[1:] for row in DAMAGES], ids=[row[0].replace(" ", "-") for row in DAMAGES]
)
def test_each_check_fails_when_its_own_thing_went_wrong(
    damage: Callable[[Facts], Facts], check: str, named: str
) -> None:
    failed = {found.name: found for found in failing(damage(GOOD))}

    assert check in failed
    assert named in failed[check].differing


def test_every_check_can_fail() -> None:
    assert {check for _, _, check, _ in DAMAGES} == {check.name for check in check_all(GOOD)}
