"""The read-model table of a Projection: made, verified and written here.

The only place that builds SQL text: the table is the user's, and Postgres takes no identifier as a parameter. Every
identifier matches the pattern of the schema and is quoted by `_quoted`; types come from the closed enum; values are
always parameters. Callers own the transaction.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import PoisonEvent, ReadModelMismatch
from marty_msf.core.projection.fold import Write, Writes
from marty_msf.core.projection.mapping import Key
from marty_msf.core.resources.projection import ColumnType, ReadModel
from marty_msf.core.resources.spec import IDENTIFIER

_IDENTIFIER: Final = re.compile(IDENTIFIER)
_NAME_LIMIT: Final = 63
#: Room on each page for new versions of its rows: updates that touch no index stay on the page (HOT).
_FILLFACTOR: Final = 75
#: As Postgres itself spells types, where that differs from ours.
_SPELLED: Final[Mapping[str, str]] = {"timestamp with time zone": "timestamptz"}
#: SQLSTATE classes that blame the row, not the server: bad data, violated constraints, limits (an oversized index entry),
#: exceptions raised by the user's triggers.
_ROW_REFUSED: Final = frozenset({"22", "23", "54", "P0"})
#: Class of statements that do not fit the table any more; a missing right is among them and is no change of the table.
_TABLE_CHANGED: Final = "42"


def _quoted(identifier: str) -> str:
    """An identifier as it stands in SQL text."""
    if not _IDENTIFIER.fullmatch(identifier):
        raise ValueError(f"{identifier!r} is no identifier that matches {IDENTIFIER}")
    return f'"{identifier}"'


def _list(identifiers: Sequence[str], prefix: str = "") -> str:
    return ", ".join(prefix + _quoted(identifier) for identifier in identifiers)


@dataclass(frozen=True, slots=True)
class Table:
    """A read model's SQL text. Equal column sets give equal text, so that statements stay prepared."""

    schema: str
    name: str
    columns: Mapping[str, ColumnType]
    key: Sequence[str]
    indexes: Sequence[Sequence[str]]

    @staticmethod
    def of(model: ReadModel) -> "Table":
        return Table(model.schema_name, model.table, model.columns, model.key, model.indexes)

    @property
    def full_name(self) -> str:
        return f"{_quoted(self.schema)}.{_quoted(self.name)}"

    def create(self) -> str:
        columns = [
            f"{_quoted(name)} {kind.value}{' NOT NULL' if name in self.key else ''}"
            for name, kind in self.columns.items()
        ]
        return (
            f"CREATE TABLE {self.full_name} ({', '.join(columns)}, PRIMARY KEY ({_list(self.key)}))"
            f" WITH (fillfactor = {_FILLFACTOR})"
        )

    def create_index(self, columns: Sequence[str]) -> str:
        name = "_".join((self.name, *columns, "idx"))
        if len(name) > _NAME_LIMIT:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name[: _NAME_LIMIT - 9]}_{digest}"
        return f"CREATE INDEX IF NOT EXISTS {_quoted(name)} ON {self.full_name} ({_list(columns)})"

    def upsert(self, columns: Sequence[str]) -> str:
        names = [*self.key, *columns]
        sets = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in columns)
        return (
            f"INSERT INTO {self.full_name} ({_list(names)}) SELECT {_list(names)} FROM {self._parameters(names)}"  # noqa: S608  # see the module's docstring
            f" ON CONFLICT ({_list(self.key)}) DO {f'UPDATE SET {sets}' if sets else 'NOTHING'}"
        )

    def update(self, columns: Sequence[str]) -> str:
        sets = ", ".join(f"{_quoted(name)} = w.{_quoted(name)}" for name in columns)
        return (
            f"UPDATE {self.full_name} AS t SET {sets} FROM {self._parameters([*self.key, *columns])}"  # noqa: S608  # see the module's docstring
            f" WHERE {self._same_key()}"
        )

    def delete(self) -> str:
        return f"DELETE FROM {self.full_name} AS t USING {self._parameters(self.key)} WHERE {self._same_key()}"  # noqa: S608  # see the module's docstring

    def _parameters(self, names: Sequence[str]) -> str:
        arrays = ", ".join(f"${number}::{self.columns[name].value}[]" for number, name in enumerate(names, 1))
        return f"unnest({arrays}) AS w ({_list(names)})"

    def _same_key(self) -> str:
        return " AND ".join(f"t.{_quoted(name)} = w.{_quoted(name)}" for name in self.key)


LOCK: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('marty.read_model:' || $1::text, 0))
"""

KIND: Final = """
SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass($1::text)
"""

COLUMNS: Final = """
SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type,
       attnotnull AND NOT atthasdef AND attidentity = '' AS required
  FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped
"""

KEY: Final = """
SELECT a.attname::text AS name
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
 WHERE i.indrelid = to_regclass($1::text) AND i.indisprimary
"""


CLAIM: Final = """
INSERT INTO marty.projection_table (schema_name, table_name, resource)
VALUES ($1, $2, $3)
ON CONFLICT (schema_name, table_name) DO NOTHING
"""

OWNER: Final = """
SELECT resource FROM marty.projection_table WHERE schema_name = $1 AND table_name = $2
"""


async def prepare(conn: Connection, table: Table, resource: str, *, fresh: bool) -> None:
    """Claim the table, make it and its indexes when absent, and verify what is there. One transaction, safe side by side.

    `resource` ('<namespace>/<name>') becomes or stays the table's only writer; a table that does not fit is not claimed.
    `fresh`: no event was applied yet; else a table that is absent is not made again, because the events it lacks would
    never come back. Raises ReadModelMismatch.
    """
    try:
        await conn.execute(LOCK, table.full_name)
        await _claim(conn, table, resource)
        kind = await conn.fetchval(KIND, table.full_name)
        if kind is None and not fresh:
            raise ReadModelMismatch(
                f"table {table.full_name} is missing, but events were applied to it already: restore it, or read all"
                " events again: set spec.state to Stopped, SELECT marty.reset_projection('<namespace>/<name>'), set"
                " spec.state to Running"
            )
        if kind is None:
            await conn.execute(table.create())
        elif kind not in {"r", "p"}:
            raise ReadModelMismatch(f"{table.full_name} exists and is no table: choose another spec.readModel.table")
        else:
            await _verify(conn, table)
        for columns in table.indexes:
            await conn.execute(table.create_index(columns))
    except asyncpg.InvalidSchemaNameError as error:
        raise ReadModelMismatch(
            f"schema {table.schema!r} does not exist: create it or change spec.readModel.schema"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ReadModelMismatch(
            f"the database user may not make or change {table.full_name} ({error}): let it own the table,"
            f" or GRANT USAGE, CREATE ON SCHEMA {_quoted(table.schema)} to it"
        ) from error


async def _claim(conn: Connection, table: Table, resource: str) -> None:
    await conn.execute(CLAIM, table.schema, table.name, resource)
    owner = await conn.fetchval(OWNER, table.schema, table.name)
    if owner != resource:
        raise ReadModelMismatch(
            f"table {table.full_name} is written by Projection {owner}, so {resource} stays idle: make it again with"
            f" another spec.readModel.table, or stop or delete {owner} and let it give the table up with"
            f" SELECT marty.reset_projection('{owner}')"
        )


async def _verify(conn: Connection, table: Table) -> None:
    remedy = "alter the table, or choose another spec.readModel.table"
    found = {row["name"]: row for row in await conn.fetch(COLUMNS, table.full_name)}
    for name, kind in table.columns.items():
        if name not in found:
            raise ReadModelMismatch(
                f"table {table.full_name} exists without column {name!r} ({kind.value}): add the column, {remedy}"
            )
        spelled = _SPELLED.get(found[name]["type"], found[name]["type"])
        if spelled != kind.value:
            raise ReadModelMismatch(
                f"column {name!r} of table {table.full_name} is of type {spelled}, spec.readModel.columns wants"
                f" {kind.value}: correct the spec, {remedy}"
            )
    for name, row in found.items():
        if name not in table.columns and row["required"]:
            raise ReadModelMismatch(
                f"column {name!r} ({row['type']}) of table {table.full_name} needs a value that spec.readModel.columns"
                f" does not declare: declare it, {remedy}"
            )
    key = {row["name"] for row in await conn.fetch(KEY, table.full_name)}
    if key != set(table.key):
        raise ReadModelMismatch(
            f"the primary key of table {table.full_name} is ({', '.join(sorted(key)) or 'missing'}),"
            f" spec.readModel.key wants ({', '.join(table.key)}): correct the spec, {remedy}"
        )


async def write(conn: Connection, table: Table, writes: Writes) -> None:
    """Apply a folded batch. Raises PoisonEvent when Postgres refuses a row, ReadModelMismatch when the table changed."""
    try:
        for update in writes.updates:
            await conn.execute(table.update(update.columns), *_arguments(update.keys, update))
        for upsert in writes.upserts:
            await conn.execute(table.upsert(upsert.columns), *_arguments(upsert.keys, upsert))
        if writes.deletes:
            await conn.execute(table.delete(), *_arguments(writes.deletes))
    except asyncpg.InsufficientPrivilegeError:
        raise
    except asyncpg.PostgresError as error:
        blamed = (error.sqlstate or "")[:2]
        if blamed == _TABLE_CHANGED:
            raise ReadModelMismatch(f"table {table.full_name} was changed while it was written: {error}") from error
        if blamed in _ROW_REFUSED:
            # Without the DETAIL of str(error), which quotes the row.
            raise PoisonEvent(
                f"Postgres refuses the row ({error.args[0]}): see the table's constraints, indexes and triggers"
            ) from error
        raise


def _arguments(keys: Sequence[Key], write: Write | None = None) -> list[Sequence[Any]]:
    """The arrays of a statement: the key's columns, then the others."""
    return [*map(list, zip(*keys, strict=True)), *(write.values if write else ())]
