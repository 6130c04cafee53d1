"""Which events of a batch are sent now, and which are held or were sent before. Decides; the memory it asks is given."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from marty_msf.worker.relay.batch import AGGREGATE_ID, EXTRAS, ID, LANE, PAYLOAD, PRIORITY_ALONE, TOPIC, Row, extras
from marty_msf.worker.relay.exceptions import AheadIds, HeldKeys


@dataclass(frozen=True, slots=True)
class Choice:
    """A batch, divided."""

    rows: Sequence[Row]
    held: frozenset[int] = frozenset()
    passed: frozenset[int] = frozenset()


def choose(
    rows: Sequence[Row],
    keys: HeldKeys,
    ahead: AheadIds,
    missing: Collection[str],
    suspect: Collection[int],
    limits: Mapping[str, int],
    now_micros: int,
    *,
    decide: bool,
) -> Choice:
    """`missing`: topics that are not there; `suspect`: events one of which was refused; `limits`: payloads (bytes) that
    topics are known to refuse.

    An event behind a held one of its aggregate is held too. With `decide`, those that will be are noted in `keys`.
    """
    if not (keys or ahead or missing or suspect or limits) and all(row[EXTRAS] is None for row in rows):
        return Choice(rows)
    passed = ahead.among([row[ID] for row in rows])
    holding = keys.lanes()
    send, held = [], set()
    behind: set[str | None] = set()
    # Each test is asked only where it can hold: beside one poison key every other event takes this way too.
    for row in rows:
        id_, lane, more = row[ID], row[LANE], row[EXTRAS]
        if id_ in passed:
            continue
        if (
            (lane in holding and keys.holds(lane, row[AGGREGATE_ID]))
            or (behind and row[AGGREGATE_ID] in behind)
            or (missing and row[TOPIC] in missing)
            or id_ in suspect
            or (more is not None and more not in PRIORITY_ALONE and (extras(more)["after"] or 0) > now_micros)
            or (limits and len(row[PAYLOAD]) >= limits.get(row[TOPIC], len(row[PAYLOAD]) + 1))
        ):
            held.add(id_)
            key = row[AGGREGATE_ID]
            if decide:
                keys.decided(lane, key)
                holding.add(lane)
            elif key is not None:
                behind.add(key)
        else:
            send.append(row)
    return Choice(send, frozenset(held), passed)
