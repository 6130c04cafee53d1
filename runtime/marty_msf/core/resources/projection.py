"""The Projection kind: folds events from Kafka into a read-model table, position and rows in one transaction."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import (
    EventType,
    Expression,
    Identifier,
    Kafka,
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


MAX_INDEXES: Final = 16
#: Postgres allows 32 columns in an index.
Index = Annotated[list[Identifier], Field(min_length=1, max_length=32)]

#: CEL for the index of the first of readModel.indexes with a column that is not declared.
_UNKNOWN_INDEX: Final = (
    f"{indexes(MAX_INDEXES)}.filter(i, i < size(self.readModel.indexes)"
    " && !self.readModel.indexes[i].all(c, c in self.readModel.columns))[0]"
)


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
