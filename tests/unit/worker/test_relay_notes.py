"""A batch with transactions: what the note of each lane says is what the pipeline would write."""

from collections.abc import Set as AbstractSet
from typing import Any

from marty_msf.core.outbox.transaction import History, Note
from marty_msf.core.windows import BEGINNING, Position
from marty_msf.worker.relay.batch import Batch
from marty_msf.worker.relay.flight import NOTHING, Flight, Lane
from marty_msf.worker.relay.notes import by_lane, exceptions_of, notes_of

HISTORY = History(1, "00000001")
STANDS = Position(BEGINNING)


def row(id_: int, lane: int) -> Any:
    return (id_, lane, f"event-{id_}", "topic", "type", "thing", f"key-{lane}", b"{}", None, 0, None)


def flight(
    rows: list[Any], *, held: AbstractSet[int] = NOTHING, passed: AbstractSet[int] = NOTHING, ahead: bool = False
) -> Flight:
    lanes = {it[1] for it in rows}
    after = {} if ahead else {lane: STANDS.within(rows[-1][0]) for lane in lanes}
    return Flight(
        Batch(rows, after, dict.fromkeys(lanes, STANDS)),
        {lane: Lane(1, STANDS, STANDS, STANDS) for lane in lanes},
        {"topic": 1},
        [it for it in rows if it[0] not in held | passed],
        held,
        passed,
        ahead,
    )


def notes(given: Flight) -> dict[int, Note]:
    rows = by_lane(given.rows)
    return dict(notes_of(given, rows, dict.fromkeys(rows, HISTORY)))


def test_each_lane_has_its_own_events_and_exceptions() -> None:
    found = notes(flight([row(1, 5), row(2, 6), row(3, 5), row(4, 6), row(5, 7)], held={3}, passed={4}))
    seen = {lane: (note.published, note.last[0], [*note.held], [*note.passed]) for lane, note in found.items()}
    assert seen == {5: (1, 1, [3], []), 6: (1, 2, [], [4]), 7: (1, 5, [], [])}
    assert {note.after for note in found.values()} == {STANDS.within(5)}
    exceptions = exceptions_of(found)
    assert (dict(exceptions.held), dict(exceptions.ahead), list(exceptions.passed)) == ({3: None}, {}, [4])


def test_a_lane_of_which_nothing_is_sent_has_no_transaction() -> None:
    assert set(notes(flight([row(1, 5), row(2, 6)], held={2}))) == {5}


def test_what_goes_ahead_moves_no_position() -> None:
    found = notes(flight([row(8, 5), row(9, 5)], ahead=True))
    assert (found[5].after, list(found[5].ahead), found[5].last) == (None, [8, 9], (9, "event-9"))
