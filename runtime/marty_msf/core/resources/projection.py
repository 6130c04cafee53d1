"""The Projection kind: folds events from Kafka into a read-model table, position and rows in one transaction."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kafka import Kafka
from marty_msf.core.resources.spec import (
    EventType,
    Expression,
    Identifier,
    Model,
    Rule,
    Topic,
    Workload,
    indexes,
)


class ColumnType(StrEnum):
    """The closed set of column types; the value is the Postgres type name."""

    TEXT = "text"
    BIGINT = "bigint"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DOUBLE = "double precision"
    NUMERIC = "numeric"
    TIMESTAMPTZ = "timestamptz"
    DATE = "date"
    UUID = "uuid"
    JSONB = "jsonb"


#: Columns that every Postgres table has.
SYSTEM_COLUMNS: Final = ("cmax", "cmin", "ctid", "tableoid", "xmax", "xmin")
#: Ours, and those of Postgres; every other that starts with `pg_` is Postgres's as well.
RESERVED_SCHEMAS: Final = ("information_schema", "marty")
RESERVED_PREFIX: Final = "pg_"

MAX_INDEXES: Final = 16
#: Postgres allows 32 columns in an index.
Index = Annotated[list[Identifier], Field(min_length=1, max_length=32)]

#: CEL for the index of the first of readModel.indexes with a column that is not declared.
_UNKNOWN_INDEX: Final = (
    f"{indexes(MAX_INDEXES)}.filter(i, i < size(self.readModel.indexes)"
    " && !self.readModel.indexes[i].all(c, c in self.readModel.columns))[0]"
)


#: CEL for a column `k` of the key whose equal values may be spelled differently.
_JSONB_KEY: Final = f"k in self.columns && self.columns[k] == '{ColumnType.JSONB.value}'"


class KafkaSource(Model):
    """Topics whose events are folded into the table."""

    topics: list[Topic] = Field(min_length=1, max_length=16, description="Kafka topics that are read, each named once.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.topics.all(t, self.topics.exists_one(o, o == t))",
            "a topic is named more than once: name each topic once",
            field=".topics",
        ),
    )

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if (twice := _first_repeated(self.topics)) is not None:
            raise InvalidDefinition(
                "spec.source.kafka.topics", f"names topic {twice!r} more than once", "name each topic once"
            )
        return self


class Source(Model):
    """Where the events come from."""

    kafka: KafkaSource = Field(description="Events in Kafka, as an OutboxRelay publishes them.")


def _never_changes(field: str) -> Rule:
    return Rule(
        f"self.{field} == oldSelf.{field}",
        f"{field} cannot be changed, because the new table would lack the events that were folded already:"
        " make a new Projection with another name",
        field=f".{field}",
    )


class ReadModel(Model):
    """The table that queries read. The Projection creates it and is its only writer."""

    RULES: ClassVar[Sequence[Rule]] = (
        *(_never_changes(field) for field in ("schema", "table", "columns", "key")),
        Rule(
            "self.key.all(k, self.key.exists_one(o, o == k))",
            "a column is named more than once: name each key column once",
            field=".key",
        ),
        Rule(
            f"!(self.schema in {list(RESERVED_SCHEMAS)} || self.schema.startsWith('{RESERVED_PREFIX}'))",
            "the schema belongs to Postgres or to Marty itself: name a schema of your own",
            """'schema "' + self.schema + '" belongs to Postgres or to Marty itself: name a schema of your own'""",
            ".schema",
        ),
        Rule(
            f"!self.columns.exists(c, c in {list(SYSTEM_COLUMNS)})",
            "a column has the name of a system column of Postgres: give it another name",
            f"""'column "' + self.columns.filter(c, c in {list(SYSTEM_COLUMNS)})[0]"""
            """ + '" has the name of a system column of Postgres: give it another name'""",
            ".columns",
        ),
        Rule(
            f"!self.key.exists(k, {_JSONB_KEY})",
            "a key column is of type jsonb: use a column with one spelling per value",
            f"""'column "' + self.key.filter(k, {_JSONB_KEY})[0]"""
            """ + '" is of type jsonb: use a column with one spelling per value'""",
            ".key",
        ),
    )

    schema_name: Identifier = Field("public", alias="schema", description="Postgres schema of the table.")
    table: Identifier = Field(description="Name of the table.")
    columns: dict[Identifier, ColumnType] = Field(
        min_length=1, max_length=100, description="Column name to column type."
    )
    key: list[Identifier] = Field(
        min_length=1, max_length=8, description="Primary key; each of its columns is declared in columns."
    )
    indexes: list[Index] = Field(
        default_factory=list, max_length=MAX_INDEXES, description="Further indexes, each a list of columns."
    )

    @model_validator(mode="after")
    def _key_columns_differ(self) -> Self:
        if (twice := _first_repeated(self.key)) is not None:
            raise InvalidDefinition(
                "spec.readModel.key", f"names column {twice!r} more than once", "name each key column once"
            )
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        if self.schema_name in RESERVED_SCHEMAS or self.schema_name.startswith(RESERVED_PREFIX):
            raise InvalidDefinition(
                "spec.readModel.schema",
                f"{self.schema_name!r} belongs to Postgres or to Marty itself",
                "name a schema of your own",
            )
        for column in self.columns:
            if column in SYSTEM_COLUMNS:
                raise InvalidDefinition(
                    f"spec.readModel.columns.{column}", "is a system column of Postgres", "give it another name"
                )
        for column in self.key:
            if self.columns.get(column) is ColumnType.JSONB:
                raise InvalidDefinition(
                    "spec.readModel.key",
                    f"column {column!r} is of type jsonb",
                    "use a column with one spelling per value",
                )
        return self


class EventMapping(Model):
    """What one event type does to one row. Key columns default to the event's field of the same name."""

    upsert: dict[Identifier, Expression] | None = Field(
        None, max_length=100, description="Column to CEL over `event`; inserts the row when it is missing."
    )
    update: dict[Identifier, Expression] | None = Field(
        None, max_length=100, description="Column to CEL over `event`; a missing row stays missing."
    )
    delete: bool | None = Field(None, description="true removes the row.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "(has(self.upsert) ? 1 : 0) + (has(self.update) ? 1 : 0) + (has(self.delete) && self.delete ? 1 : 0) == 1",
            "an event has none or several effects: give exactly one of upsert, update and delete: true",
        ),
    )

    @model_validator(mode="after")
    def _one_effect(self) -> Self:
        if (self.upsert is not None) + (self.update is not None) + bool(self.delete) != 1:
            raise InvalidDefinition(
                "spec.events",
                "an event has none or several effects",
                "give exactly one of upsert, update and delete: true",
            )
        return self

    @property
    def columns(self) -> dict[str, str]:
        """Column to expression, whatever the effect."""
        return self.upsert or self.update or {}


def _mapped_columns_are_declared(effect: str) -> Rule:
    wrong = f"has(self.events[e].{effect}) && !self.events[e].{effect}.all(c, c in self.readModel.columns)"
    event = f"self.events.filter(e, {wrong})[0]"
    return Rule(
        f"!self.events.exists(e, {wrong})",
        f"an {effect} maps a column that spec.readModel.columns does not declare: add it there or correct the name",
        f"""'the {effect} of "' + {event} + '" maps column "'"""
        f""" + self.events[{event}].{effect}.filter(c, !(c in self.readModel.columns))[0]"""
        """ + '", which spec.readModel.columns does not declare: add it there or correct the name'""",
        ".events",
    )


#: CEL for an event type `e` whose update would change nothing.
_UPDATE_OF_KEY: Final = "has(self.events[e].update) && self.events[e].update.all(c, c in self.readModel.key)"


class ProjectionSpec(Workload):
    """Where the events come from, the table they make, and how each event type changes a row."""

    kafka: Kafka = Field(description="The team's own Kafka.")
    source: Source = Field(description="Where the events come from.")
    read_model: ReadModel = Field(description="The table that queries read.")
    events: dict[EventType, EventMapping] = Field(
        min_length=1, max_length=100, description="Event type (ce_type) to its effect; other types are skipped."
    )
    batch_size: int = Field(2000, ge=1, le=100_000, description="Events folded into one transaction.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.readModel.key.all(k, k in self.readModel.columns)",
            "names a column that spec.readModel.columns does not declare: add it there or correct the name",
            """'names column "' + self.readModel.key.filter(k, !(k in self.readModel.columns))[0]"""
            """ + '", which spec.readModel.columns does not declare: add it there or correct the name'""",
            ".readModel.key",
        ),
        Rule(
            "self.readModel.indexes.all(i, i.all(c, c in self.readModel.columns))",
            "names a column that spec.readModel.columns does not declare: add it there or correct the name",
            f"""'the index that starts with "' + self.readModel.indexes[{_UNKNOWN_INDEX}][0]"""
            """ + '" names a column that spec.readModel.columns does not declare: add it there or correct the name'""",
            ".readModel.indexes",
        ),
        _mapped_columns_are_declared("upsert"),
        _mapped_columns_are_declared("update"),
        Rule(
            f"!self.events.exists(e, {_UPDATE_OF_KEY})",
            "an update maps no column beside the key: name the columns it changes",
            f"""'the update of "' + self.events.filter(e, {_UPDATE_OF_KEY})[0]"""
            """ + '" maps no column beside the key: name the columns it changes'""",
            ".events",
        ),
    )

    @model_validator(mode="after")
    def _columns_are_declared(self) -> Self:
        declared = self.read_model.columns
        for column in self.read_model.key:
            if column not in declared:
                raise InvalidDefinition(
                    "spec.readModel.key", f"names column {column!r}", "declare it in spec.readModel.columns"
                )
        for index, columns in enumerate(self.read_model.indexes):
            for column in columns:
                if column not in declared:
                    raise InvalidDefinition(
                        f"spec.readModel.indexes[{index}]",
                        f"names column {column!r}",
                        "declare it in spec.readModel.columns",
                    )
        for event, mapping in self.events.items():
            if mapping.update is not None and mapping.update.keys() <= set(self.read_model.key):
                raise InvalidDefinition(
                    f"spec.events.{event}.update", "maps no column beside the key", "name the columns it changes"
                )
            for column in mapping.columns:
                if column not in declared:
                    raise InvalidDefinition(
                        f"spec.events.{event}",
                        f"maps column {column!r}",
                        "declare it in spec.readModel.columns or correct the name",
                    )
        return self


def _first_repeated(names: Sequence[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)
