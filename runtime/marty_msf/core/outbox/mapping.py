"""Whether an application's outbox table can be mapped as `spec.source` says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from marty_msf.core.errors import MappingInvalid
from marty_msf.core.resources.outbox_source import Source

_TEXT: Final = "text"
_WHOLE_NUMBERS: Final = frozenset({"int2", "int4", "int8"})
_TABLES: Final = frozenset({"r", "p"})


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column may be: names of types, and whether every type of text, enums among them."""

    types: frozenset[str]
    texts: bool
    remedy: str


_NAME: Final = Kind(frozenset(), texts=True, remedy="map a column of text")
_KEY: Final = Kind(_WHOLE_NUMBERS | {"uuid"}, texts=True, remedy="map a column of text, uuid or integer")

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "eventId": Kind(frozenset({"uuid"}), texts=False, remedy="map a column of uuid, or none: ids are made then"),
        "topic": _NAME,
        "eventType": _NAME,
        "aggregateId": _KEY,
        "aggregateType": _NAME,
        "payload": Kind(
            frozenset({"bytea", "json", "jsonb"}), texts=True, remedy="map a column of bytea, text, json or jsonb"
        ),
        "headers": Kind(frozenset({"json", "jsonb"}), texts=False, remedy="map a column of json or jsonb"),
        "priority": Kind(frozenset(), texts=True, remedy="map a column of text with high, normal or low"),
        "maxDeliveryAttempts": Kind(
            frozenset({"int2", "int4"}), texts=False, remedy="map a column of smallint or integer"
        ),
        "deliverAfter": Kind(frozenset({"timestamptz"}), texts=False, remedy="map a column of timestamptz"),
        "messageKey": _KEY,
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue has it."""

    #: For people: `character varying(20)`.
    shown: str
    #: `varchar`; of a domain the type below it.
    type: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A table as the catalogue has it."""

    #: `r`, `p`, `v`, …: pg_class.relkind.
    kind: str
    owner: str
    #: In whose name triggers are made: who migrated.
    maker: str
    #: Whether that user may look into the schema, and make triggers on the table.
    may_use: bool
    may_trigger: bool
    #: The trigger of the mapping is there, and somebody has disabled it.
    disabled: bool
    columns: Mapping[str, Column]


def check(source: Source, found: Found | None) -> None:
    """Raise MappingInvalid, with path, value and remedy, for the first thing that does not fit."""
    path, table = "spec.source.table", source.table
    schema = table.partition(".")[0]
    if found is None:
        raise MappingInvalid(
            path, f"there is no table {table}", "create it or correct the name; upper and lower case count"
        )
    if found.kind not in _TABLES:
        raise MappingInvalid(path, f"{table} is no table (it is a view, for instance)", "name the table behind it")
    if not found.may_use:
        raise MappingInvalid(
            path,
            f"user {found.maker} may not use schema {schema}",
            f"let its owner run GRANT USAGE ON SCHEMA {_quoted(schema)} TO {_quoted(found.maker)}",
        )
    if not found.may_trigger:
        raise MappingInvalid(
            path,
            f"user {found.maker} may make no trigger on {table}",
            f"let {found.owner} run GRANT TRIGGER ON {_quoted(table)} TO {_quoted(found.maker)}",
        )
    if found.disabled:
        raise MappingInvalid(
            path,
            f"the trigger marty_outbox on {table} is disabled, so nothing of it is published",
            f"let {found.owner} run ALTER TABLE {_quoted(table)} ENABLE TRIGGER marty_outbox",
        )
    for field, name in source.columns.model_dump(by_alias=True, exclude_none=True).items():
        _check_column(field, name, table, found.columns)


def _check_column(field: str, name: str, table: str, columns: Mapping[str, Column]) -> None:
    path, column = f"spec.source.columns.{field}", columns.get(name)
    if column is None:
        there = ", ".join(sorted(columns)[:20])
        raise MappingInvalid(path, f"{table} has no column {name!r}", f"name one of its columns: {there}")
    kind = KINDS[field]
    if column.type not in kind.types and not (kind.texts and column.is_text):
        raise MappingInvalid(path, f"column {name} of {table} is {column.shown}", kind.remedy)


def _quoted(name: str) -> str:
    """Names of the specification, and of roles, as SQL that people can paste."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
