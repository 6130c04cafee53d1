"""The check table of the chaos run finds what it is there to find."""

from dataclasses import replace

import pytest

from dev.chaos.checks import check_all
from dev.chaos.facts import Ended, Facts
from dev.chaos.ledger import Calls, Entry
from dev.chaos.plan import Plan

PLAN = Plan(instances=3, seconds=10, restarts=(0.5,))
DONE = ("reserve", "hold", "insure", "charge", "confirm")
#: Order 0 is refused by reserve, order 1 completes, order 2 is a premium one that was undone before its pivot.
FACTS = Facts(
    instances=(
        Ended("a", "order-0", "Compensated", "refused", "Compensated", ("hold",)),
        Ended("b", "order-1", "Completed", None, "Completed", ()),
        Ended("c", "order-2", "Compensated", "late", "Compensated", ("insure", "reserve", "hold", "discount")),
    ),
    entries=(
        *(Entry("b", step, 1) for step in DONE),
        Entry("a", "hold", 1),
        Entry("a", "hold", -1),
        Entry("c", "insure", 1),
        Entry("c", "reserve", 1),
        Entry("c", "hold", 1),
        *(
            Entry("c", step, change)
            for step, change in (("discount", 0), ("hold", -1), ("reserve", -1), ("insure", -1))
        ),
    ),
    calls=Calls(14, 20, 0, 1),
    acknowledged={f"order-{number}": frozenset(id_) for number, id_ in enumerate("abc")},
    counters=(3, 1, 2, 0, 0, 0),
    lanes_kept=0,
    locks_kept=0,
    kills=4,
    restarts=1,
    crashes=(),
    errors=(),
)


def _instance(index: int, **fields: object) -> Facts:
    changed = [replace(it, **fields) if n == index else it for n, it in enumerate(FACTS.instances)]  # type: ignore[arg-type]
    return replace(FACTS, instances=changed)


def _failing(facts: Facts) -> set[str]:
    return {check.name.partition(":")[0] for check in check_all(PLAN, facts) if not check.ok}


def test_a_run_in_which_all_is_as_it_must_be_passes() -> None:
    assert not _failing(FACTS)


@pytest.mark.parametrize(
    ("facts", "failing"),
    [
        (replace(FACTS, entries=FACTS.entries[1:]), "completed"),
        (replace(FACTS, entries=(*FACTS.entries, FACTS.entries[0])), "completed"),
        (replace(FACTS, entries=(*FACTS.entries, Entry("b", "discount", 1))), "completed"),
        (replace(FACTS, entries=FACTS.entries[:-1]), "not completed"),
        (replace(FACTS, entries=(*FACTS.entries, Entry("c", "discount", 1))), "not completed"),
        (replace(FACTS, entries=(*FACTS.entries, Entry("stranger", "reserve", 1))), "not completed"),
        (
            replace(FACTS, entries=(*FACTS.entries[:-2], FACTS.entries[-1], FACTS.entries[-2])),
            "undone in the reverse of completion",
        ),
        (_instance(2, completed=("discount", "insure", "reserve", "hold")), "undone in the reverse of completion"),
        (_instance(2, state="Running", folded="Running"), "instances in end states"),
        (_instance(2, folded="Compensating"), "rows = what their journals lead to"),
        (_instance(0, state="Completed", folded="Completed"), "refused orders that completed"),
        (_instance(1, business_key="rolled back order-1"), "orders = instances, as acknowledged"),
        (
            replace(FACTS, acknowledged={**FACTS.acknowledged, "order-1": frozenset("bx")}),
            "orders = instances, as acknowledged",
        ),
        (replace(FACTS, calls=replace(FACTS.calls, other_bytes=1)), "repeated calls with other bytes"),
        (replace(FACTS, counters=(3, 2, 1, 0, 0, 0)), "started/completed/compensated/failed/cancelled/parked"),
        (replace(FACTS, crashes=["worker-1 ended with 1"]), "workers' own crashes, errors, lanes and locks kept"),
        (replace(FACTS, lanes_kept=3), "workers' own crashes, errors, lanes and locks kept"),
        (replace(FACTS, locks_kept=1), "workers' own crashes, errors, lanes and locks kept"),
        (replace(FACTS, kills=0), "kills (at least), restarts of Postgres"),
    ],
)
def test_each_fault_is_found(facts: Facts, failing: str) -> None:
    assert failing in _failing(facts)


def test_orders_that_mix_under_one_lock_are_found() -> None:
    # Orders 0 and 1 take from the same shelf.
    mixed = (Entry("a", "hold", 1), *FACTS.entries[:5], Entry("a", "hold", -1), *FACTS.entries[7:])
    assert _failing(replace(FACTS, entries=mixed)) == {"semantic locks under which orders mixed"}
