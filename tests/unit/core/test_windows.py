"""Snapshot windows, decided without a database."""

from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.windows import BEGINNING, Position, Snapshot, by_lane, closed, moved, next_window, unseen_range


def snapshots() -> st.SearchStrategy[Snapshot]:
    @st.composite
    def build(draw: st.DrawFn) -> Snapshot:
        xmin = draw(st.integers(1, 50))
        xip = tuple(sorted(draw(st.sets(st.integers(xmin, xmin + 20), max_size=5))))
        return Snapshot(min(xip, default=xmin), max((*xip, xmin - 1)) + 1 + draw(st.integers(0, 5)), xip)

    return build()


def visible(xid: int, snapshot: Snapshot) -> bool:
    """As pg_visible_in_snapshot."""
    return xid < snapshot.xmin or (xid < snapshot.xmax and xid not in snapshot.xip)


@given(st.lists(snapshots(), min_size=1, max_size=4), st.integers(1, 100))
def test_the_range_covers_whatever_one_of_the_snapshots_does_not_show(held: list[Snapshot], xid: int) -> None:
    span = unseen_range(held)

    if any(not visible(xid, snapshot) for snapshot in held):
        assert xid >= span.low or xid in span.late
    assert not any(late >= span.low for late in span.late), "a row would be read twice"


@given(snapshots())
def test_a_snapshot_is_parsed_from_the_text_postgres_gives(snapshot: Snapshot) -> None:
    text = f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, snapshot.xip))}"

    assert Snapshot.parse(text) == snapshot


def test_lanes_between_windows_are_opened_together() -> None:
    positions = {0: Position(BEGINNING), 1: closed(Snapshot(5, 7, (5,)))}

    assert next_window(positions) == (None, 0, positions)


def test_an_open_window_is_read_to_its_end_first_and_the_one_furthest_behind_before_the_others() -> None:
    end = Snapshot(9, 9, ())
    behind, ahead = Position(BEGINNING, end, 10), Position(BEGINNING, end, 20)

    assert next_window({0: ahead, 1: behind, 2: behind, 3: closed(end)}) == (end, 10, {1: behind, 2: behind})


def test_lanes_that_are_not_asked_for_have_no_position() -> None:
    behind, ahead = Position(BEGINNING), closed(Snapshot(5, 7, (5,)))

    distinct, lanes = by_lane({3: behind, 4: ahead, 63: Position(BEGINNING)})

    assert (distinct, len(lanes)) == ([behind, ahead], 64)
    assert {lane: number for lane, number in enumerate(lanes) if number} == {3: 1, 4: 2, 63: 1}


def test_lanes_at_one_position_move_to_one_position() -> None:
    behind, ahead = Position(BEGINNING), closed(Snapshot(5, 7, (5,)))
    end = Snapshot(9, 9, ())

    found = moved({3: behind, 4: ahead, 5: behind}, lambda position: position.opened(end, 7))

    assert found == {3: Position(BEGINNING, end, 7), 4: Position(ahead.prev, end, 7), 5: Position(BEGINNING, end, 7)}
    assert found[3] is found[5]
