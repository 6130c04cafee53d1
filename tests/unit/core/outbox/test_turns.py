from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.outbox.turns import Turns

WEIGHTS = {"high": 8, "normal": 4, "low": 1}


def test_each_class_gets_its_share_of_the_turns() -> None:
    turns = Turns(WEIGHTS)
    taken = Counter(turns.next(tuple(WEIGHTS)) for _ in range(130))
    assert taken == {"high": 80, "normal": 40, "low": 10}


def test_a_class_alone_has_every_turn() -> None:
    turns = Turns(WEIGHTS)
    assert {turns.next(["low"]) for _ in range(10)} == {"low"}


@given(st.lists(st.sets(st.sampled_from(tuple(WEIGHTS)), min_size=1), min_size=1, max_size=300))
def test_whoever_keeps_waiting_gets_a_turn_within_the_sum_of_the_weights(waiting: list[set[str]]) -> None:
    turns = Turns(WEIGHTS)
    waits = 0
    for others in waiting:
        chosen = turns.next(tuple({*others, "low"}))
        waits = 0 if chosen == "low" else waits + 1
        assert waits <= 2 * sum(WEIGHTS.values())
