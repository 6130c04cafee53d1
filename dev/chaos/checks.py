"""The check table of a chaos run, computed from facts alone. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from dev.chaos.facts import Ended, Facts
from dev.chaos.plan import Plan
from dev.demo.checks import Check

COMPLETED: Final = "Completed"
#: Ended with nothing left done.
UNDONE: Final = ("Compensated", "Failed", "Cancelled")
END_STATES: Final = (COMPLETED, *UNDONE)
#: Steps with those that begin when they are all done behind them: an undo of a former one never comes first.
STAGES: Final[Mapping[str, int]] = {
    "reserve": 0, "hold": 0, "insure": 0, "discount": 1, "charge": 2, "confirm": 3, "thank": 4,
}  # fmt: skip


def check_all(plan: Plan, facts: Facts) -> tuple[Check, ...]:
    """The whole table, in the order it is printed."""
    checks: Sequence[Callable[[Plan, Facts], Check]] = (
        disturbances,
        starts,
        end_states,
        refusals,
        journals,
        completed_orders,
        undone_orders,
        undo_order,
        locks,
        repeated_calls,
        counters,
        workers,
    )
    return tuple(check(plan, facts) for check in checks)


def disturbances(plan: Plan, facts: Facts) -> Check:
    """The run was as rough as it was meant to be."""
    longest = plan.kill_seconds[1]
    kills = plan.kills if plan.kills is not None else int(plan.seconds / longest)
    found = f"{min(facts.kills, kills)}, {facts.restarts}"
    return _check("kills (at least), restarts of Postgres", f"{kills}, {len(plan.restarts)}", found, ())


def starts(plan: Plan, facts: Facts) -> Check:
    """One instance for each order, the one that customers were told, and none for what was rolled back."""
    expected = {order.key for order in plan.orders}
    found = Counter(it.business_key for it in facts.instances)
    ids = {it.business_key: it.id for it in facts.instances}
    differing = {key for key in expected | found.keys() if found[key] != int(key in expected)}
    differing |= {key for key in expected if facts.acknowledged.get(key) != frozenset({ids.get(key, "")})}
    return _check("orders = instances, as acknowledged", len(expected), found.total(), differing)


def end_states(plan: Plan, facts: Facts) -> Check:
    """All instances came to an end by themselves."""
    differing = {f"{it.business_key} {it.state}: {it.error}" for it in facts.instances if it.state not in END_STATES}
    found = Counter(it.state for it in facts.instances)
    return _check("instances in end states", plan.instances, sum(found[state] for state in END_STATES), differing)


def refusals(plan: Plan, facts: Facts) -> Check:
    """What a step refuses never completes."""
    refused = {order.key for order in plan.orders if order.refused_by in order.steps}
    differing = {it.business_key for it in facts.instances if it.business_key in refused and it.state == COMPLETED}
    return _check("refused orders that completed", 0, len(differing), differing)


def journals(_: Plan, facts: Facts) -> Check:
    """A journal leads exactly to the row."""
    differing = {
        f"{it.business_key} {it.state}, journal {it.folded}" for it in facts.instances if it.state != it.folded
    }
    return _check(
        "rows = what their journals lead to", len(facts.instances), len(facts.instances) - len(differing), differing
    )


def completed_orders(plan: Plan, facts: Facts) -> Check:
    """Each step of a completed order took effect once and was never undone; no other step did anything."""
    orders = {order.key: order for order in plan.orders}
    ledger = _by_saga(facts)
    completed = [it for it in facts.instances if it.state == COMPLETED and it.business_key in orders]
    differing = {
        f"{it.business_key}: {ledger[it.id]}"
        for it in completed
        if sorted(ledger[it.id]) != sorted((step, 1) for step in orders[it.business_key].steps)
    }
    return _check("completed: each step done exactly once", len(completed), len(completed) - len(differing), differing)


def undone_orders(_: Plan, facts: Facts) -> Check:
    """Of an order that did not complete nothing is left; each step was done at most once and undone at most once."""
    ledger = _by_saga(facts)
    undone = [it for it in facts.instances if it.state in UNDONE]
    differing = {f"{it.business_key} {it.state}: {ledger[it.id]}" for it in undone if not _nothing_left(ledger[it.id])}
    strangers = ledger.keys() - {it.id for it in facts.instances}
    return _check("not completed: nothing left done", len(undone), len(undone) - len(differing), differing | strangers)


def _nothing_left(entries: Sequence[tuple[str, int]]) -> bool:
    times = Counter(entries)
    steps = {step for step, _ in entries}
    return all(times[step, 1] == times[step, -1] <= 1 and times[step, 1] + times[step, 0] == 1 for step in steps)


def undo_order(_: Plan, facts: Facts) -> Check:
    """The services saw the undos in the reverse of the order in which the steps completed."""
    ledger = _by_saga(facts)
    undone = [it for it in facts.instances if it.completed]
    differing = {
        f"{it.business_key}: completed {it.completed}, undone {_undos(ledger[it.id])}"
        for it in undone
        if not _in_reverse(it, _undos(ledger[it.id]))
    }
    return _check("undone in the reverse of completion", len(undone), len(undone) - len(differing), differing)


def _in_reverse(instance: Ended, undos: Sequence[str]) -> bool:
    stages = [STAGES[step] for step in undos]
    return list(undos) == list(reversed(instance.completed)) and stages == sorted(stages, reverse=True)


def _undos(entries: Sequence[tuple[str, int]]) -> list[str]:
    return [step for step, change in entries if change <= 0]


def locks(plan: Plan, facts: Facts) -> Check:
    """What two orders did to one customer or shelf is never mixed: the second one begins when the first one has ended."""
    orders = {order.key: order for order in plan.orders}
    held = {it.id: orders[it.business_key].locks for it in facts.instances if it.business_key in orders}
    last: dict[str, str] = {}
    over: set[tuple[str, str]] = set()
    differing = set()
    for entry in facts.entries:
        for lock in held.get(entry.saga, ()):
            if last.get(lock) != entry.saga:
                over |= {(lock, last[lock])} if lock in last else set()
                last[lock] = entry.saga
                if (lock, entry.saga) in over:
                    differing.add(lock)
    return _check("semantic locks under which orders mixed", 0, len(differing), differing)


def repeated_calls(_: Plan, facts: Facts) -> Check:
    """A key always comes with the same bytes."""
    return _check("repeated calls with other bytes", 0, facts.calls.other_bytes, ())


def counters(_: Plan, facts: Facts) -> Check:
    """The numbers of the status are what the rows give."""
    found = Counter(it.state for it in facts.instances)
    expected = (len(facts.instances), *(found[state] for state in END_STATES), found["Parked"])
    return _check("started/completed/compensated/failed/cancelled/parked", _row(expected), _row(facts.counters), ())


def workers(_: Plan, facts: Facts) -> Check:
    """Nothing that happened made a worker end by itself, log an error of its own, or keep a lane or lock at the end."""
    kept = {"lanes": facts.lanes_kept, "locks": facts.locks_kept}
    still = [f"{count} {what} are still kept" for what, count in kept.items() if count]
    differing = [*facts.crashes, *facts.errors, *still]
    return _check("workers' own crashes, errors, lanes and locks kept", 0, len(differing), differing)


def _by_saga(facts: Facts) -> Mapping[str, list[tuple[str, int]]]:
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in facts.entries:
        found[entry.saga].append((entry.step, entry.change))
    return found


def _row(numbers: Iterable[int]) -> str:
    return "/".join(str(number) for number in numbers)


def _check(name: str, expected: object, found: object, differing: Iterable[str]) -> Check:
    return Check(name, str(expected), str(found), tuple(sorted(differing)))
