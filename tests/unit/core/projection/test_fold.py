"""A folded batch equals its changes applied one by one, whatever the rows were before."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marty_msf.core.projection.fold import Writes, fold
from marty_msf.core.projection.mapping import Change, Effect

COLUMNS = ("a", "b", "c")
Rows = dict[tuple[Any, ...], dict[str, Any]]


def one_by_one(rows: Rows, changes: Sequence[Change]) -> Rows:
    """The meaning of upsert, update and delete, in the plainest words."""
    result = {key: dict(row) for key, row in rows.items()}
    for change in changes:
        values = dict(zip(change.columns, change.values, strict=True))
        if change.effect is Effect.DELETE:
            result.pop(change.key, None)
        elif change.effect is Effect.UPSERT:
            result[change.key] = result.get(change.key, dict.fromkeys(COLUMNS)) | values
        elif change.key in result:
            result[change.key] |= values
    return result


def written(rows: Rows, writes: Writes) -> Rows:
    """What the statements of store.read_model do with the writes."""
    result = {key: dict(row) for key, row in rows.items()}
    for update in writes.updates:
        for key, *values in zip(update.keys, *update.values, strict=True):
            if key in result:
                result[key] |= dict(zip(update.columns, values, strict=True))
    for upsert in writes.upserts:
        for index, key in enumerate(upsert.keys):
            values_of = dict(zip(upsert.columns, [column[index] for column in upsert.values], strict=True))
            result[key] = result.get(key, dict.fromkeys(COLUMNS)) | values_of
    for key in writes.deletes:
        result.pop(key, None)
    return result


keys = st.tuples(st.integers(0, 2))
values = st.one_of(st.none(), st.integers(0, 5))
column_sets = st.dictionaries(st.sampled_from(COLUMNS), values, max_size=3)


def change(effect: Effect, key: tuple[Any, ...], fields: Mapping[str, Any]) -> Change:
    columns = () if effect is Effect.DELETE else tuple(sorted(fields))
    return Change(effect, key, columns, tuple(fields[name] for name in columns))


changes_of_rows = st.lists(st.builds(change, st.sampled_from(Effect), keys, column_sets), max_size=10)
rows_before = st.dictionaries(keys, st.fixed_dictionaries(dict.fromkeys(COLUMNS, values)), max_size=4)


@given(rows_before, st.lists(changes_of_rows, max_size=3))
def test_folded_batches_equal_their_changes_one_by_one(before: Rows, batches: list[list[Change]]) -> None:
    rows = before
    for batch in batches:
        rows = written(rows, fold(batch, COLUMNS))
    assert rows == one_by_one(before, [change for batch in batches for change in batch])


@settings(max_examples=50)
@given(changes_of_rows)
def test_a_statement_touches_each_row_once_and_in_key_order(changes: list[Change]) -> None:
    writes = fold(changes, COLUMNS)
    for keys_of_statement in (*(w.keys for w in (*writes.updates, *writes.upserts)), writes.deletes):
        assert list(keys_of_statement) == sorted(set(keys_of_statement))
    upserted = [key for write in writes.upserts for key in write.keys]
    assert len(upserted) == len(set(upserted))
    assert set(upserted).isdisjoint(writes.deletes)


def test_events_of_one_row_become_one_write() -> None:
    changes = [change(Effect.UPSERT, (1,), {"a": n, "b": n}) for n in range(100)]
    writes = fold(changes, COLUMNS)
    assert [(w.columns, list(w.keys), [list(v) for v in w.values]) for w in writes.upserts] == [
        (("a", "b"), [(1,)], [[99], [99]])
    ]
    assert not writes.updates
    assert not writes.deletes
