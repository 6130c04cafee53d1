"""A batch of changes as few writes: what a row goes through is known without reading the row.

Whatever happened to a row in a batch has one of four forms: it is updated, it is (updated if it exists and then)
upserted, it is replaced as a whole, or it is deleted. The two writes of the second form touch different columns, because
a row that is inserted now must not show what an earlier update said when the row was missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from marty_msf.core.projection.mapping import Change, Effect, Key


class _Row:
    """The form of one row so far."""

    __slots__ = ("before", "form", "values")

    def __init__(self, form: Effect | None, values: dict[str, Any], before: dict[str, Any]) -> None:
        #: UPDATE, UPSERT or DELETE; None is "replaced".
        self.form = form
        self.values = values
        #: Written first, and only to a row that exists.
        self.before = before


@dataclass(frozen=True, slots=True)
class Write:
    """One statement's rows: all of them write the same columns. Keys are sorted, and each occurs once."""

    columns: tuple[str, ...]
    keys: Sequence[Key]
    #: A sequence per column, aligned with `keys`.
    values: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Writes:
    """Apply in the order of the fields: updates touch only rows that exist, upserts insert or merge."""

    updates: Sequence[Write] = ()
    upserts: Sequence[Write] = ()
    deletes: Sequence[Key] = ()


@dataclass(slots=True)
class _Groups:
    """Rows by the columns they write."""

    rows: dict[tuple[str, ...], list[tuple[Key, Mapping[str, Any]]]] = field(default_factory=dict)
    sorted_names: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def add(self, key: Key, values: Mapping[str, Any]) -> None:
        names = tuple(values)
        columns = self.sorted_names.get(names)
        if columns is None:
            columns = self.sorted_names[names] = tuple(sorted(names))
        self.rows.setdefault(columns, []).append((key, values))

    def writes(self) -> Sequence[Write]:
        return [
            Write(columns, [key for key, _ in rows], [[values[name] for _, values in rows] for name in columns])
            for columns, rows in sorted(self.rows.items())
        ]


def fold(changes: Iterable[Change], columns: Sequence[str]) -> Writes:
    """The writes that equal the changes applied one by one in their order. `columns` are all that are not in the key."""
    rows: dict[Key, _Row] = {}
    for change in changes:
        row = rows.get(change.key)
        if row is None:
            rows[change.key] = _Row(change.effect, dict(change.values), {})
        else:
            _apply(row, change)
    updates, upserts, deletes = _Groups(), _Groups(), []
    for key in sorted(rows):
        row = rows[key]
        if row.form is Effect.DELETE:
            deletes.append(key)
        elif row.form is Effect.UPDATE:
            if row.values:
                updates.add(key, row.values)
        elif row.form is Effect.UPSERT:
            if row.before:
                updates.add(key, row.before)
            upserts.add(key, row.values)
        else:
            upserts.add(key, {name: row.values.get(name) for name in columns})
    return Writes(updates.writes(), upserts.writes(), deletes)


def _apply(row: _Row, change: Change) -> None:
    match change.effect:
        case Effect.DELETE:
            row.form, row.values, row.before = Effect.DELETE, {}, {}
            return
        case Effect.UPDATE:
            if row.form is Effect.DELETE:
                return
            row.values.update(change.values)
        case Effect.UPSERT:
            if row.form is Effect.DELETE:
                row.form, row.values = None, dict(change.values)
            elif row.form is Effect.UPDATE:
                row.form, row.before, row.values = Effect.UPSERT, row.values, dict(change.values)
            else:
                row.values.update(change.values)
        case _:
            assert_never(change.effect)
    # What both writes say, the later one says for both.
    for name in change.values.keys() & row.before.keys():
        del row.before[name]
