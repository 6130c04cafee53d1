"""Duplicates are discarded by the key's sequence, and a poison event stops only its partition."""

import json
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.projection.intake import Stream, sequenced, take
from marty_msf.core.projection.mapping import Mapper
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.worker.broker.consumer import Record

SOURCE = b"/marty/shop/order"
MAPPER = Mapper(
    ProjectionSpec.model_validate(
        {
            "database": {"urlSecretRef": {"name": "db"}},
            "kafka": {"bootstrapServers": "kafka:9092"},
            "source": {"kafka": {"topics": ["orders"]}},
            "readModel": {"table": "orders", "columns": {"id": "text", "n": "bigint"}, "key": ["id"]},
            "events": {"set": {"upsert": {"n": "event.n"}}},
        }
    )
)


def record(
    offset: int, key: str, sequence: str | None, n: object = 0, partition: int = 0, kind: bytes = b"set"
) -> Record:
    headers = {"ce_type": kind, "ce_source": SOURCE, "ce_id": b"id-%d" % offset}
    if sequence is not None:
        headers["ce_martysequence"] = sequence.encode()
    return Record("orders", partition, offset, key.encode(), json.dumps({"id": key, "n": n}).encode(), headers, 0)


def known(**keys: int) -> dict[Stream, dict[bytes, int]]:
    return {("orders", 0, SOURCE): {key.encode(): sequence for key, sequence in keys.items()}}


def test_lower_and_equal_sequences_are_duplicates() -> None:
    records = [record(0, "k", "5"), record(1, "k", "6"), record(2, "k", "6"), record(3, "k", "5"), record(4, "k", "7")]
    taken = take(sequenced(records), MAPPER, known(k=5))
    assert taken.counts["orders", 0].processed == 2
    assert taken.counts["orders", 0].duplicates == 3
    assert taken.sequences == known(k=7)


def test_events_without_a_usable_sequence_are_never_duplicates() -> None:
    records = [record(n, "k", sequence) for n, sequence in enumerate([None, None, "x", "-1", "1" * 30])]
    taken = take(sequenced(records), MAPPER, {})
    assert taken.counts["orders", 0].processed == 5
    assert taken.sequences == {}


def test_a_type_without_a_mapping_still_raises_the_sequence() -> None:
    taken = take(sequenced([record(0, "k", "5", kind=b"other")]), MAPPER, known(k=1))
    assert not taken.changes
    assert taken.counts["orders", 0].processed == 1
    assert taken.sequences == known(k=5)


def test_a_poison_event_stops_its_partition_and_no_other() -> None:
    records = [
        record(0, "a", None),
        record(1, "b", None, n="x"),
        record(2, "c", None),
        record(0, "d", None, partition=1),
    ]
    taken = take(sequenced(records), MAPPER, {})
    assert [change.key for change in taken.changes] == [("a",), ("d",)]
    stop = taken.stops["orders", 0]
    assert stop.offset == 1
    for part in ("'orders'", "partition 0", "offset 1", "id-1", "column n", "spec.events"):
        assert part in str(stop.error)
    assert taken.counts["orders", 0].processed == 1


def test_a_poison_event_leaves_its_sequence_for_the_next_attempt() -> None:
    records = [record(0, "a", "1"), record(1, "a", "2", n="x")]
    assert take(sequenced(records), MAPPER, known(a=0)).sequences == known(a=1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), max_size=30), st.integers(0, 30))
def test_a_window_sent_again_from_any_point_changes_nothing(pairs: Sequence[tuple[str, int]], again_from: int) -> None:
    """Keys' sequences rise in the first delivery; what a crashed relay sends again is a later part of it."""
    highest: dict[str, int] = {}
    first = []
    for key, step in pairs:
        highest[key] = highest.get(key, 0) + step
        first.append((key, highest[key]))
    sent = [*first, *first[again_from:]]
    records = [record(offset, key, str(sequence), n=offset) for offset, (key, sequence) in enumerate(sent)]
    taken = take(sequenced(records), MAPPER, known(a=0, b=0, c=0))
    assert [change.values for change in taken.changes] == [(offset,) for offset in range(len(first))]


@pytest.mark.parametrize(("key", "source"), [("k" * 50_000, SOURCE), ("k", b"/s" * 10_000)])
def test_a_key_or_source_too_long_to_be_remembered_stops_its_partition_only(key: str, source: bytes) -> None:
    long = record(0, key, "1")
    long = long._replace(headers={**long.headers, "ce_source": source})
    records = sequenced([long, record(0, "d", None, partition=1)])
    assert [stream for _, stream, _ in records] == [None, None]
    taken = take(records, MAPPER, {})
    assert [change.key for change in taken.changes] == [("d",)]
    assert list(taken.stops) == [("orders", 0)]
    assert "may have 1024" in str(taken.stops["orders", 0].error)
    assert len(str(taken.stops["orders", 0].error)) < 1000


def test_the_longest_key_of_our_outbox_is_remembered() -> None:
    taken = take(sequenced([record(0, "k" * 512, "1")]), MAPPER, {("orders", 0, SOURCE): {b"k" * 512: 0}})
    assert not taken.stops


def test_a_null_source_is_an_empty_one() -> None:
    without = record(0, "k", "1")
    without = without._replace(headers={**without.headers, "ce_source": cast(bytes, None)})
    assert sequenced([without])[0][1] == ("orders", 0, b"")
