"""The check table of a soak run, computed from facts alone. Pure."""

from collections.abc import Callable, Iterable, Sequence

from dev.demo.checks import Check
from dev.soak.facts import Facts
from dev.soak.plan import BEFORE_POISON, REPEATED_EACH, Plan


def check_all(plan: Plan, facts: Facts) -> tuple[Check, ...]:
    """The whole table, in the order it is printed."""
    checks: Sequence[Callable[[Plan, Facts], Check]] = (
        kills,
        nothing_lost,
        order,
        duplicates,
        dead_letters,
        held,
        counters,
        relays,
    )
    return tuple(check(plan, facts) for check in checks)


def kills(plan: Plan, facts: Facts) -> Check:
    """The run was as rough as it was meant to be."""
    wanted = int(plan.seconds / (plan.kill_seconds * 1.2))
    return _check("kills of relays (at least)", wanted, min(facts.kills, wanted), ())


def nothing_lost(_: Plan, facts: Facts) -> Check:
    """Every committed event is in Kafka, and nothing that was rolled back."""
    expected = {**facts.committed, **dict.fromkeys(facts.poison, BEFORE_POISON)}
    found = facts.consumed.in_order
    differing = {
        f"{key}: {expected.get(key, 0)} committed, {found.get(key, 0)} in Kafka"
        for key in expected.keys() | found.keys()
        if expected.get(key, 0) != found.get(key, 0)
    }
    return _check("events committed = in Kafka", sum(expected.values()), sum(found.values()), differing)


def order(_: Plan, facts: Facts) -> Check:
    """For a consumer that discards by (key, ce_martysequence)."""
    return _check("events out of their aggregate's order", 0, facts.consumed.out_of_order, facts.consumed.faults)


def duplicates(_: Plan, facts: Facts) -> Check:
    """Only a kill, or an event that Kafka refused, makes a relay send again, and no more than it had in flight."""
    bound = (facts.kills + len(facts.poison)) * REPEATED_EACH
    discarded = facts.consumed.discarded
    return _check("events sent again (at most)", bound, max(discarded, bound), ())


def dead_letters(_: Plan, facts: Facts) -> Check:
    """Exactly the poison ones are dead."""
    dead = [(aggregate, number) for aggregate, state, number in facts.held if state == "Dead"]
    expected = {(aggregate, BEFORE_POISON) for aggregate in facts.poison}
    differing = {f"{aggregate}: event {number}" for aggregate, number in expected ^ set(dead)}
    return _check("poison events = dead letters", len(expected), len(dead), differing)


def held(_: Plan, facts: Facts) -> Check:
    """Nothing else is held."""
    others = [f"{aggregate}: event {number} {state}" for aggregate, state, number in facts.held if state != "Dead"]
    return _check("other events held", 0, len(others), others)


def counters(_: Plan, facts: Facts) -> Check:
    """The numbers of the status are what the tables and topics give: each event is counted once, however often it was sent."""
    published = sum(facts.committed.values()) + BEFORE_POISON * len(facts.poison)
    dead = len(facts.poison)
    found = facts.progress
    return _check("published/held/dead", f"{published}/0/{dead}", f"{found.published}/{found.held}/{found.dead}", ())


def relays(_: Plan, facts: Facts) -> Check:
    """Nothing that happened made a relay end by itself, log an error of its own, or keep a lane at the end."""
    still = [f"{facts.lanes_kept} lanes are still kept"] if facts.lanes_kept else []
    differing = [*facts.crashes, *facts.errors, *still]
    return _check("relays' own crashes, errors, lanes kept", 0, len(differing), differing)


def _check(name: str, expected: object, found: object, differing: Iterable[str]) -> Check:
    return Check(name, str(expected), str(found), tuple(sorted(differing)))
