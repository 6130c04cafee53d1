"""The Projection kind: folds events from Kafka into a read-model table, position and rows in one transaction."""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import EventType, Expression, Identifier, Kafka, Model, Rule, Topic, Workload


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


class KafkaSource(Model):
    topics: list[Topic] = Field(min_length=1, max_length=16)


class Source(Model):
    kafka: KafkaSource


class ReadModel(Model):
    """The table that queries read. The Projection creates it and is its only writer."""

    schema_name: Identifier = Field("public", alias="schema", description="Postgres schema of the table.")
    table: Identifier
    columns: dict[Identifier, ColumnType] = Field(min_length=1, max_length=100)
    key: list[Identifier] = Field(
        min_length=1, max_length=8, description="Primary key; each of its columns is declared in columns."
    )
    indexes: list[list[Identifier]] = Field(
        default_factory=list, max_length=16, description="Further indexes, each a list of columns."
    )


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
            "exactly one of upsert, update and delete: true is needed",
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


class ProjectionSpec(Workload):
    """Where the events come from, the table they make, and how each event type changes a row."""

    kafka: Kafka
    source: Source
    read_model: ReadModel
    events: dict[EventType, EventMapping] = Field(
        min_length=1, max_length=100, description="Event type (ce_type) to its effect; other types are skipped."
    )
    batch_size: int = Field(2000, ge=1, le=100_000, description="Events folded into one transaction.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.readModel.key.all(k, k in self.readModel.columns)",
            "spec.readModel.key names a column that spec.readModel.columns does not declare",
            "'spec.readModel.key names column ' + self.readModel.key.filter(k, !(k in self.readModel.columns))[0]"
            " + ', which spec.readModel.columns does not declare: add it there'",
        ),
        Rule(
            "self.readModel.indexes.all(i, i.all(c, c in self.readModel.columns))",
            "spec.readModel.indexes names a column that spec.readModel.columns does not declare",
        ),
        Rule(
            "self.events.all(e, !has(self.events[e].upsert) || self.events[e].upsert.all(c, c in self.readModel.columns))",
            "an upsert in spec.events maps a column that spec.readModel.columns does not declare: add it there or correct the name",
            "'spec.events: the upsert of ' + self.events.filter(e, has(self.events[e].upsert)"
            " && !self.events[e].upsert.all(c, c in self.readModel.columns))[0]"
            " + ' maps a column that spec.readModel.columns does not declare: add it there or correct the name'",
        ),
        Rule(
            "self.events.all(e, !has(self.events[e].update) || self.events[e].update.all(c, c in self.readModel.columns))",
            "an update in spec.events maps a column that spec.readModel.columns does not declare: add it there or correct the name",
            "'spec.events: the update of ' + self.events.filter(e, has(self.events[e].update)"
            " && !self.events[e].update.all(c, c in self.readModel.columns))[0]"
            " + ' maps a column that spec.readModel.columns does not declare: add it there or correct the name'",
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
            for column in mapping.columns:
                if column not in declared:
                    raise InvalidDefinition(
                        f"spec.events.{event}",
                        f"maps column {column!r}",
                        "declare it in spec.readModel.columns or correct the name",
                    )
        return self
