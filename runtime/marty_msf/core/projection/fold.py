"""A batch of changes as few writes: what a row goes through is known without reading the row.

Whatever happened to a row in a batch has one of four forms: it is updated, it is (updated if it exists and then)
upserted, it is replaced as a whole, or it is deleted. The two writes of the second form touch different columns, because
a row that is inserted now must not show what an earlier update said when the row was missing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, assert_never

from marty_msf.core.projection.mapping import Change, Effect, Key

Columns = tuple[str, ...]
Values = tuple[Any, ...]


class _Row:
    """The form of one row so far: UPDATE, UPSERT, DELETE, or None for "replaced as a whole"."""

    __slots__ = ("before", "columns", "form", "values")

    def __init__(self, change: Change) -> None:
        self.form: Effect | None = change.effect
        self.columns = change.columns
        self.values = change.values
        #: Written first, and only to a row that exists.
        self.before: dict[str, Any] = {}

    def set(self, values: dict[str, Any]) -> None:
        self.columns = tuple(sorted(values))
        self.values = tuple([values[name] for name in self.columns])

    def merge(self, change: Change) -> None:
        if change.columns == self.columns:
            self.values = change.values
        else:
            self.set(
                dict(zip(self.columns, self.values, strict=True))
                | dict(zip(change.columns, change.values, strict=True))
            )


@dataclass(frozen=True, slots=True)
class Write:
    """One statement's rows: all of them write the same columns. Keys are sorted, and each occurs once."""

    columns: Columns
    keys: Sequence[Key]
    #: A sequence per column, aligned with `keys`.
    values: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Writes:
    """Apply in the order of the fields: updates touch only rows that exist, upserts insert or merge."""

    updates: Sequence[Write] = ()
    upserts: Sequence[Write] = ()
    deletes: Sequence[Key] = ()


class _Groups:
    """Rows by the columns they write."""

    def __init__(self) -> None:
        self._rows: dict[Columns, tuple[list[Key], list[Values]]] = {}

    def add(self, key: Key, columns: Columns, values: Values) -> None:
        group = self._rows.get(columns)
        if group is None:
            group = self._rows[columns] = ([], [])
        group[0].append(key)
        group[1].append(values)

    def writes(self) -> Sequence[Write]:
        return [
            Write(columns, keys, list(zip(*values, strict=True)))
            for columns, (keys, values) in sorted(self._rows.items())
        ]


def fold(changes: Iterable[Change], columns: Sequence[str]) -> Writes:
    """The writes that equal the changes applied one by one in their order. `columns` are all that are not in the key."""
    rows: dict[Key, _Row] = {}
    for change in changes:
        row = rows.get(change.key)
        if row is None:
            rows[change.key] = _Row(change)
        else:
            _apply(row, change)
    updates, upserts, deletes = _Groups(), _Groups(), []
    everything = tuple(sorted(columns))
    for key in _sorted(rows):
        row = rows[key]
        if row.before:
            before = tuple(sorted(row.before))
            updates.add(key, before, tuple([row.before[name] for name in before]))
        match row.form:
            case Effect.UPSERT:
                upserts.add(key, row.columns, row.values)
            case Effect.UPDATE:
                if row.columns:
                    updates.add(key, row.columns, row.values)
            case Effect.DELETE:
                deletes.append(key)
            case None:
                values = dict(zip(row.columns, row.values, strict=True))
                upserts.add(key, everything, tuple([values.get(name) for name in everything]))
            case _:
                assert_never(row.form)
    return Writes(updates.writes(), upserts.writes(), deletes)


def _sorted(keys: Iterable[Key]) -> Sequence[Key]:
    """In key order: neighbours in the index, and no deadlock between workers. Single columns compare faster bare."""
    ordered = list(keys)
    single = bool(ordered) and len(ordered[0]) == 1
    ordered.sort(key=itemgetter(0) if single else None)
    return ordered


def _apply(row: _Row, change: Change) -> None:
    match change.effect:
        case Effect.DELETE:
            row.form, row.columns, row.values, row.before = Effect.DELETE, (), (), {}
            return
        case Effect.UPDATE:
            if row.form is Effect.DELETE:
                return
            row.merge(change)
        case Effect.UPSERT:
            if row.form is Effect.DELETE:
                row.form, row.columns, row.values = None, change.columns, change.values
            elif row.form is Effect.UPDATE:
                row.before = dict(zip(row.columns, row.values, strict=True))
                row.form, row.columns, row.values = Effect.UPSERT, change.columns, change.values
            else:
                row.merge(change)
        case _:
            assert_never(change.effect)
    # What both writes say, the later one says for both.
    for name in change.columns:
        row.before.pop(name, None)
