"""When a relay reads again."""

import pytest

from marty_msf.worker.relay.pipeline import LONGEST_REST_SECONDS, rested


@pytest.mark.parametrize(("events", "rest"), [(0, 0), (1, 0.0005), (2, 0.001), (4, 0.002), (500, 0.002)])
def test_the_more_a_read_found_the_longer_is_the_rest_behind_it(events: int, rest: float) -> None:
    assert rested(10.0, 10.001, events) == pytest.approx(10.001 + rest)


def test_a_slow_database_is_not_waited_for_twice() -> None:
    assert rested(10.0, 13.0, 5) == 13.0 + LONGEST_REST_SECONDS
