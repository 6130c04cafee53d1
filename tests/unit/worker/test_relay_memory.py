"""What the relay remembers of events that do not go their lane's way, and how it divides a batch by it."""

from typing import Any

import orjson

from marty_msf.core.windows import BEGINNING, Position, Snapshot
from marty_msf.worker.relay.batch import Batch
from marty_msf.worker.relay.choosing import choose
from marty_msf.worker.relay.exceptions import HELD_AT_MOST, AheadIds, HeldKeys
from marty_msf.worker.relay.flight import Flight, Lane
from marty_msf.worker.relay.work import Work

END = Snapshot(9, 9, ())
START = Position(BEGINNING, END)


def row(id_: int, key: str | None = "a", *, lane: int = 1, topic: str = "t", payload: bytes = b"", **more: Any) -> Any:
    asked = {"key": None, "max_attempts": None, "priority": 1, "after": None, **more}
    return (
        id_,
        lane,
        f"event-{id_}",
        topic,
        "e",
        "",
        key,
        payload,
        None,
        0,
        orjson.dumps(asked).decode() if more else None,
    )


def divided(rows: list[Any], keys: HeldKeys, **given: Any) -> tuple[list[int], list[int], list[int]]:
    arguments: dict[str, Any] = {"ahead": AheadIds(), "missing": (), "suspect": (), "limits": {}, **given}
    choice = choose(rows, keys, now_micros=1000, decide=True, **arguments)
    return [found[0] for found in choice.rows], sorted(choice.held), sorted(choice.passed)


def test_a_plain_batch_goes_as_it_is() -> None:
    assert divided([row(1), row(2, "b")], HeldKeys()) == ([1, 2], [], [])


def test_what_is_behind_a_held_event_of_its_aggregate_is_held_others_go() -> None:
    rows = [row(1, topic="missing"), row(2), row(3, "b"), row(4, None)]
    assert divided(rows, HeldKeys(), missing=("missing",)) == ([3, 4], [1, 2], [])


def test_delays_suspects_and_sizes_hold_an_event() -> None:
    rows = [row(1, "a", after=2000), row(2, "b", after=500), row(3, "c"), row(4, "d", payload=b"12345")]
    assert divided(rows, HeldKeys(), suspect={3}, limits={"t": 5}) == ([2], [1, 3, 4], [])


def test_what_went_ahead_is_passed_over() -> None:
    ahead = AheadIds()
    ahead.sent(1, 2)
    assert divided([row(1), row(2), row(3)], HeldKeys(), ahead=ahead) == ([1, 3], [], [2])


def test_an_aggregate_is_free_once_nothing_of_it_is_held_or_being_written() -> None:
    keys = HeldKeys()
    keys.decided(1, "a")
    assert keys.holds(1, "a")
    keys.stored([(1, "a")], {1: 1})
    before = keys.times([(1, "a")])
    keys.released([(1, "a")], before, {1: -1}, {})
    assert not keys.holds(1, "a")
    assert keys.rows == 0


def test_a_release_that_missed_a_later_write_frees_nothing() -> None:
    keys = HeldKeys()
    keys.decided(1, "a")
    keys.stored([(1, "a")], {1: 1})
    before = keys.times([(1, "a")])
    keys.decided(1, "a")
    keys.stored([(1, "a")], {1: 1})
    keys.released([(1, "a")], before, {1: -1}, {})
    assert keys.holds(1, "a")


def test_a_release_leaves_what_is_decided_and_not_yet_written() -> None:
    keys = HeldKeys()
    keys.decided(1, "a")
    keys.stored([(1, "a")], {1: 1})
    before = keys.times([(1, "a")])
    keys.decided(1, "a")
    keys.released([(1, "a")], before, {1: -1}, {})
    assert keys.holds(1, "a")


def test_forgetting_what_is_on_its_way_keeps_what_is_stored() -> None:
    keys = HeldKeys()
    keys.load([1], [(1, "a")], {1: 1}, {})
    keys.decided(1, "b")
    keys.forget()
    assert keys.holds(1, "a")
    assert not keys.holds(1, "b")


def test_a_lane_with_too_much_held_waits() -> None:
    keys = HeldKeys()
    keys.load([1], [], {1: HELD_AT_MOST}, {})
    assert keys.full() == {1}


def test_a_lane_waits_for_what_catches_up_until_it_is_free_and_not_for_long() -> None:
    keys = HeldKeys()
    for key in ("a", "b"):
        keys.decided(1, key)
        keys.stored([(1, key)], {1: 1})
    keys.decided(2, "c")
    keys.catch_up([(1, "a"), (2, "c"), (3, "free")], 101.0)
    assert keys.catching_up(100.0) == {1, 2}
    keys.released([(1, "a")], keys.times([(1, "a")]), {1: -1}, {})
    assert keys.catching_up(100.5) == {2}
    keys.catch_up([(2, "c")], 101.9)
    assert keys.catching_up(101.1) == frozenset(), "it was asked for again before its time was over"
    keys.catch_up([(2, "c")], 102.1)
    assert keys.catching_up(101.2) == {2}
    keys.forget()
    assert keys.catching_up(101.2) == frozenset(), "nothing of it is held any more"


def test_no_lane_waits_for_what_cannot_be_sent() -> None:
    keys = HeldKeys()
    keys.decided(1, "a")
    keys.catch_up([(1, "a")], 101.0)
    keys.stand_still([(1, "a"), (2, "unknown")])
    assert keys.catching_up(100.0) == frozenset()


def flight(*rows: Any, held: set[int] = frozenset(), passed: set[int] = frozenset(), ahead: bool = False) -> Flight:  # type: ignore[assignment]
    batch = Batch(rows, {} if ahead else {1: Position(END)}, {} if ahead else {1: START})
    sent = [found for found in rows if found[0] not in {*held, *passed}]
    return Flight(batch, {1: Lane(1, START, START, START)}, {}, sent, held, passed, ahead)


def test_a_lane_stops_before_the_first_event_that_is_lost() -> None:
    settled = flight(row(1), row(2), row(3)).settled({2}, {})
    assert settled.positions == {1: START.within(1)}
    assert settled.published == {1: 1}
    assert settled.stopped == {1}


def test_nothing_is_settled_of_a_lane_whose_first_event_is_lost() -> None:
    assert flight(row(1), row(2)).settled({1}, {}).positions == {}


def test_held_events_are_passed_and_not_counted_as_published() -> None:
    settled = flight(row(1), row(2), row(3), held={2}).settled(frozenset(), {})
    assert settled.positions == {1: Position(END)}
    assert settled.published == {1: 2}
    assert list(settled.held) == [2]


def test_an_event_that_went_ahead_and_is_lost_stops_the_lane_that_counted_on_it() -> None:
    settled = flight(row(1), row(2), row(3), passed={2}).settled({2}, {})
    assert settled.positions == {1: START.within(1)}
    assert settled.passed == {}


def test_what_goes_ahead_moves_no_position() -> None:
    settled = flight(row(1), row(2), ahead=True).settled(frozenset(), {})
    assert settled.positions == {}
    assert settled.ahead == {1: 1, 2: 1}
    assert settled.published == {1: 2}


def test_what_a_position_passes_is_not_waiting_whether_it_was_sent_held_or_went_ahead_before() -> None:
    """Naive: what went ahead is found by a look that began before, is forgotten when the position is behind it, and goes
    once more: sent and counted twice, and remembered for ever."""
    work = Work()
    with work.noting_sent():
        work.note_sent(flight(row(1), row(2), row(3), held={2}, passed={3}))
    assert work.sent_meanwhile == {1, 2, 3}
