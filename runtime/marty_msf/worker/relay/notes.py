"""Notes of a batch: for each lane with events in it, the write to the database that is behind its transaction. Pure."""

from collections.abc import Mapping, Sequence

from marty_msf.core.outbox.transaction import History, Note
from marty_msf.store.outbox_position import Exceptions
from marty_msf.worker.relay.batch import EVENT_ID, ID, LANE, Row
from marty_msf.worker.relay.flight import NOTHING, Flight


def by_lane(rows: Sequence[Row]) -> Mapping[int, Sequence[Row]]:
    """In the order of the rows."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row[LANE], []).append(row)
    return found


def notes_of(flight: Flight, rows: Mapping[int, Sequence[Row]], histories: Mapping[int, History]) -> Mapping[int, Note]:
    """By lane; where the lanes stand before (`base`) is not known yet."""
    settled = flight.settled(NOTHING, {})
    held: dict[int, list[int]] = {lane: [] for lane in flight.lanes}
    for id_ in sorted(settled.held):
        held[settled.held[id_][0][LANE]].append(id_)
    ahead, passed = _ids(settled.ahead), _ids(settled.passed)
    return {
        lane: Note(
            histories[lane],
            "",
            settled.positions.get(lane),
            len(sent),
            max((row[ID], row[EVENT_ID]) for row in sent),
            held[lane],
            ahead.get(lane, ()),
            passed.get(lane, ()),
        )
        for lane, sent in rows.items()
    }


def exceptions_of(notes: Mapping[int, Note]) -> Exceptions:
    """What the writes behind these notes have beside positions."""
    return Exceptions(
        {id_: None for note in notes.values() for id_ in note.held},
        {id_: lane for lane, note in notes.items() for id_ in note.ahead},
        [id_ for note in notes.values() for id_ in note.passed],
    )


def _ids(lanes: Mapping[int, int]) -> Mapping[int, Sequence[int]]:
    found: dict[int, list[int]] = {}
    for id_ in sorted(lanes):
        found.setdefault(lanes[id_], []).append(id_)
    return found
