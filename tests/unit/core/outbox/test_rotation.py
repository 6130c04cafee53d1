"""When slots are turned and emptied."""

from datetime import UTC, datetime, timedelta

import pytest

from marty_msf.core.outbox.rotation import Ring, to_empty, to_turn

NOW = datetime(2026, 1, 31, tzinfo=UTC)
DAY = timedelta(hours=24)


def ring(current: int, hours: float, closed: dict[int, float], *, used: bool = True) -> Ring:
    """`hours` and the values of `closed` are ages."""
    return Ring(
        NOW, current, NOW - timedelta(hours=hours), used, {s: NOW - timedelta(hours=h) for s, h in closed.items()}
    )


@pytest.mark.parametrize(
    ("it", "turns"),
    [
        (ring(0, 12, {}), True),
        (ring(0, 11.9, {}), False),
        (ring(0, 12, {}, used=False), False),
        (ring(3, 12, {1: 24, 2: 12}), True),
        (ring(3, 12, {0: 30}), False),
        (ring(0, 99, {1: 99}), False),
        (ring(0, 99, {2: 99, 3: 99}), True),
    ],
    ids=["old", "young", "without events", "from the last to the first", "the first is full", "the next is full", "others are full"],
)  # fmt: skip
def test_a_slot_is_filled_for_half_of_the_retention_and_until_the_next_one_is_empty(it: Ring, turns: bool) -> None:
    assert to_turn(it, DAY) is turns


def test_slots_are_emptied_when_their_time_is_over_the_oldest_first() -> None:
    assert to_empty(ring(0, 1, {1: 24, 2: 23.9, 3: 36}), DAY) == [3, 1]


def test_an_outbox_that_turns_in_time_always_finds_the_next_slot_empty() -> None:
    """A minute between two passes, as the janitor does it, for thirty days; an event stays a day to a day and a half."""
    current, since, closed = 0, NOW, dict[int, datetime]()
    opened = {0: NOW}
    for minute in range(30 * 24 * 60):
        now = NOW + timedelta(minutes=minute)
        it = Ring(now, current, since, True, closed)
        if now - since >= DAY / 2:
            assert to_turn(it, DAY)
            closed[current] = now
            current, since = (current + 1) % 4, now
            opened[current] = now
        for slot in to_empty(it, DAY):
            assert now - opened[slot] <= 1.5 * DAY + timedelta(minutes=3)
            del closed[slot]
