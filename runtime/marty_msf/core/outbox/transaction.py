"""What a lane's Kafka transaction carries for whoever has the lane next: the write to the database that is behind it. Pure.

Events and this note are committed by Kafka together. A relay that dies between Kafka's commit and the database's leaves
the note, and its successor makes the write in its place, so that nothing is sent twice. A note is of use only where the
lane still stands where the write begins, in the same history of the same database: in every other case it is ignored,
and events that were published come again. To repeat is allowed, to skip is not.
"""

import base64
import hashlib
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Final

import orjson

from marty_msf.core.windows import Position, Snapshot

#: Kafka's own limit of what is stored with an offset is 4,096 (`offset.metadata.max.bytes`).
LIMIT: Final = 4_000
_VERSION: Final = 1
#: What all transactional ids begin with.
PREFIX: Final = "marty-relay."


def lane_id(database: str, system_identifier: int, lane: int) -> str:
    """The lane's transactional id, and its consumer group: the outbox's, so that a relay of another name has it too."""
    return f"{PREFIX}{database}.{system_identifier}.{lane}"


@dataclass(frozen=True, slots=True)
class History:
    """Where transaction ids mean the same: a promoted standby has another timeline, and gives ids a second time."""

    system_identifier: int
    timeline: str


@dataclass(frozen=True, slots=True)
class Note:
    """The write behind one transaction of one lane."""

    history: History
    #: `mark` of where the lane stood.
    base: str
    #: Where it stands then; None where events went ahead of it.
    after: Position | None
    #: Events in the transaction.
    published: int
    #: The last of them, as (id, event id): a database that does not have it is not the one it was sent from.
    last: tuple[int, str]
    #: Ids of what the position passes and is held, went ahead of it, or went ahead earlier.
    held: Sequence[int] = field(default=())
    ahead: Sequence[int] = field(default=())
    passed: Sequence[int] = field(default=())


@lru_cache(maxsize=256)
def mark(position: Position) -> str:
    """Tells positions apart; short, because a position may name hundreds of open transactions."""
    return hashlib.blake2b(orjson.dumps(_position(position)), digest_size=12).hexdigest()


def encode(note: Note) -> str | None:
    """As text that Kafka stores with an offset; None when it is too long: then a crash may repeat this transaction."""
    packed = zlib.compress(
        orjson.dumps(
            [
                _VERSION,
                note.history.system_identifier,
                note.history.timeline,
                note.base,
                None if note.after is None else _position(note.after),
                note.published,
                note.last,
                *(_steps(ids) for ids in (note.held, note.ahead, note.passed)),
            ]
        ),
        9,
    )
    text = base64.b85encode(packed).decode()
    return text if len(text) <= LIMIT else None


def decode(text: str) -> Note | None:
    """None for a text that `encode` has not made: there was no room for the note, or a later version wrote it."""
    try:
        version, *found = orjson.loads(zlib.decompress(base64.b85decode(text)))
        if version != _VERSION:
            return None
        system_identifier, timeline, base, after, published, last, *ids = found
        held, ahead, passed = (tuple(accumulate(steps)) for steps in ids)
        return Note(
            History(system_identifier, timeline),
            base,
            None if after is None else _position_of(after),
            published,
            (last[0], last[1]),
            held,
            ahead,
            passed,
        )
    except (ValueError, TypeError, zlib.error):
        return None


def is_missing(note: Note, stored: Position, history: History, next_xid: int, ahead: Collection[int]) -> bool:
    """Whether the database lacks the note's write. `next_xid` is the database's, `ahead` what it knows to have gone ahead.

    `stored` was changed by every write since the base, so that equality says that none was made. A write that moved no
    position shows in `ahead`. Ids of transactions beyond the next one are those of a future that a restore took back.
    """
    if note.history != history or note.base != mark(stored):
        return False
    if note.after is None:
        return any(id_ not in ahead for id_ in note.ahead)
    return max(snapshot.xmax for snapshot in (note.after.prev, note.after.next) if snapshot) <= next_xid


def _position(position: Position) -> list[Any]:
    return [_snapshot(position.prev), None if position.next is None else _snapshot(position.next), position.last_id]


def _snapshot(snapshot: Snapshot) -> list[Any]:
    return [snapshot.xmin, snapshot.xmax, _steps(snapshot.xip)]


def _position_of(found: Sequence[Any]) -> Position:
    prev, following, last_id = found
    return Position(_snapshot_of(prev), None if following is None else _snapshot_of(following), last_id)


def _snapshot_of(found: Sequence[Any]) -> Snapshot:
    xmin, xmax, steps = found
    return Snapshot(xmin, xmax, tuple(accumulate(steps)))


def _steps(numbers: Sequence[int]) -> list[int]:
    """Ascending numbers as differences, which are short."""
    return [*numbers[:1], *(later - earlier for earlier, later in pairwise(numbers))]
