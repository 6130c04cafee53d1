"""The check table of the soak finds what it is there to find."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dev.soak.checks import check_all
from dev.soak.facts import Facts, Progress
from dev.soak.plan import REPEATED_EACH, Plan
from dev.soak.reading import Consumed
from dev.soak.writers import Written

PLAN = Plan(seconds=30, kill_seconds=10)


def consumed(records: Sequence[tuple[str, int, int]], discarded: int = 0) -> Consumed:
    found = Consumed(discarded=discarded)
    for record in records:
        found.take(*record)
    return found


#: Key, ce_martysequence, number.
RECORDS = [
    ("aggregate-1", 10, 0),
    ("poison-0", 11, 0),
    ("aggregate-1", 13, 1),
    ("poison-0", 12, 1),
    ("aggregate-1", 13, 1),
    ("aggregate-1", 15, 2),
]
FACTS = Facts(
    committed={"aggregate-1": 3},
    poison=frozenset({"poison-0"}),
    written=Written(),
    consumed=consumed(RECORDS),
    progress=Progress(5, 0, 1),
    held=[("poison-0", "Dead", 2)],
    lanes_kept=0,
    kills=2,
    drained_seconds=1,
    crashes=(),
    errors=(),
)


def _failing(facts: Facts) -> set[str]:
    return {check.name for check in check_all(PLAN, facts) if not check.ok}


def test_a_run_in_which_all_is_as_it_must_be_passes() -> None:
    assert not _failing(FACTS)
    assert FACTS.consumed.discarded == 1


@pytest.mark.parametrize(
    ("facts", "failing"),
    [
        (replace(FACTS, kills=1), {"kills of relays (at least)"}),
        (replace(FACTS, consumed=consumed(RECORDS[:-1])), {"events committed = in Kafka"}),
        (replace(FACTS, consumed=consumed([*RECORDS, ("aggregate-1", 16, 3)])), {"events committed = in Kafka"}),
        (replace(FACTS, consumed=consumed([*RECORDS, ("stranger", 16, 0)])), {"events committed = in Kafka"}),
        # Kafka's order is not the aggregate's: the late one is discarded, and missing.
        (
            replace(FACTS, consumed=consumed([RECORDS[2], RECORDS[0], *RECORDS[1:2], *RECORDS[3:]])),
            {"events committed = in Kafka", "events out of their aggregate's order"},
        ),
        (replace(FACTS, consumed=consumed(RECORDS, 3 * REPEATED_EACH)), {"events sent again (at most)"}),
        (
            replace(FACTS, held=[], progress=Progress(5, 0, 0)),
            {"poison events = dead letters", "published/held/dead"},
        ),
        (replace(FACTS, held=[("poison-0", "Dead", 1)]), {"poison events = dead letters"}),
        (replace(FACTS, held=[*FACTS.held, ("aggregate-1", "Waiting", 2)]), {"other events held"}),
        (replace(FACTS, progress=Progress(6, 0, 1)), {"published/held/dead"}),
        (replace(FACTS, crashes=["relay-1 ended with 1"]), {"relays' own crashes, errors, lanes kept"}),
        (replace(FACTS, lanes_kept=3), {"relays' own crashes, errors, lanes kept"}),
    ],
)
def test_each_fault_is_found(facts: Facts, failing: set[str]) -> None:
    assert _failing(facts) == failing
