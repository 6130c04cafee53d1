"""The note in a lane's Kafka transaction, and when the write that it describes is made in the place of its author."""

from dataclasses import replace
from typing import Any

import pytest

from marty_msf.core.outbox.transaction import LIMIT, History, Note, decode, encode, is_missing, lane_id, mark
from marty_msf.core.windows import BEGINNING, Position, Snapshot

HISTORY = History(7_300_000_000_000_000_000, "00000001")
STORED = Position(Snapshot(100, 120, (100, 107, 118)))
AFTER = Position(STORED.prev, Snapshot(118, 130, (118, 125)), 4711)
LAST = (4711, "0b0f9a60-7c3b-4ab6-8b0a-2f6d6f6f2d11")
NEXT_XID = 131
NOTE = Note(HISTORY, mark(STORED), AFTER, 12, LAST, held=(4700, 4705, 4709), passed=(4703,))
AHEAD = replace(NOTE, after=None, held=(), passed=(), ahead=(5000, 5001))


def missing(note: Note, **other: Any) -> bool:
    given = {"stored": STORED, "history": HISTORY, "next_xid": NEXT_XID, "ahead": (), **other}
    return is_missing(note, **given)


@pytest.mark.parametrize("note", [NOTE, AHEAD, replace(NOTE, after=Position(BEGINNING), held=())], ids=str)
def test_a_note_is_read_as_it_was_written(note: Note) -> None:
    text = encode(note)
    assert text is not None
    assert text.isascii()
    assert decode(text) == note


@pytest.mark.parametrize("text", ["", "consumer-1", "{}", "c-o~T", (encode(NOTE) or "")[:-9]])
def test_a_text_that_is_no_note_is_none(text: str) -> None:
    assert decode(text) is None


def test_hundreds_of_open_transactions_have_room() -> None:
    """Kafka takes 4,096 bytes; a snapshot names each transaction that is open."""
    open_ones = tuple(range(10_000_000_001, 10_000_004_001, 3))[:1000]
    busy = Snapshot(open_ones[0], open_ones[-1] + 1, open_ones)
    later = Snapshot(open_ones[1], open_ones[-1] + 900, open_ones[1:])
    text = encode(replace(NOTE, after=Position(busy, later, 10**12), held=tuple(range(0, 2000, 2))))
    assert text is not None
    assert len(text) <= LIMIT


def test_what_has_no_room_is_left_out_rather_than_cut() -> None:
    scattered = tuple(sorted(number * number % 1_000_003 for number in range(5_000)))
    assert encode(replace(NOTE, held=scattered)) is None


def test_a_write_is_missing_where_the_lane_stands_at_its_base() -> None:
    assert missing(NOTE)
    assert not missing(NOTE, stored=AFTER), "it was made"
    assert not missing(NOTE, stored=Position(Snapshot(400, 400, ()))), "others were made since, or a reset"


def test_the_form_of_a_position_does_not_matter() -> None:
    again = Position(Snapshot.parse("100:120:100,107,118"))
    assert missing(NOTE, stored=again)


@pytest.mark.parametrize(
    "history",
    [replace(HISTORY, timeline="00000002"), replace(HISTORY, system_identifier=1)],
    ids=["promoted", "restored"],
)
def test_another_history_of_the_database_lacks_nothing(history: History) -> None:
    """A standby that was promoted without the last transactions gives their ids to others: those would be skipped."""
    assert not missing(NOTE, history=history)


def test_a_position_of_a_future_that_was_taken_back_is_no_position() -> None:
    """A volume's snapshot brings back an older state under the same name."""
    assert not missing(NOTE, next_xid=129)


def test_what_went_ahead_moves_no_position_and_is_known_by_its_ids() -> None:
    assert missing(AHEAD)
    assert missing(AHEAD, ahead={5000})
    assert not missing(AHEAD, ahead={5000, 5001, 9})


def test_ids_tell_databases_and_lanes_apart() -> None:
    ids = {lane_id(database, cluster, lane) for cluster in (1, 11) for database in ("shop", "test") for lane in (1, 11)}
    assert len(ids) == 8
    assert lane_id("shop", 1, 2) == "marty-relay.shop.1.2"
