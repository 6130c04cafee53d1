"""An outbox table that an application had before Marty, and what its columns mean."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import Model, Rule, Topic, check_topic_is_free, topic_is_free

#: As it is written in the catalogue: upper case counts.
_NAME: Final = "[A-Za-z_][A-Za-z0-9_]{0,62}"
#: Of schemas that are Postgres's or ours.
_RESERVED: Final = ("marty.", "information_schema.", "pg_")

Column = Annotated[str, Field(min_length=1, max_length=63, pattern=rf"^{_NAME}$")]
Table = Annotated[str, Field(min_length=3, max_length=127, pattern=rf"^{_NAME}[.]{_NAME}$")]


class SourceColumns(Model):
    """Names of columns, as they are written in the catalogue."""

    event_id: Column | None = Field(None, description="uuid; becomes ce_id. Left out, or NULL in a row: one is made.")
    topic: Column | None = Field(None, description="text: the Kafka topic. Either this or spec.source.topic.")
    event_type: Column = Field(description="text; becomes ce_type.")
    aggregate_id: Column | None = Field(
        None,
        description="text, uuid or integer: events with the same one keep their order. Left out, or NULL: no order.",
    )
    aggregate_type: Column | None = Field(None, description="text; part of ce_source.")
    payload: Column = Field(description="bytea is sent as it is; text, json and jsonb as UTF-8.")
    headers: Column | None = Field(None, description="json or jsonb: an object of texts.")
    priority: Column | None = Field(None, description="text: high, normal or low; NULL is normal.")
    max_delivery_attempts: Column | None = Field(None, description="smallint or integer.")
    deliver_after: Column | None = Field(None, description="timestamptz.")
    message_key: Column | None = Field(
        None, description="text, uuid or integer: Kafka's key, where it is not the aggregate id."
    )


class Source(Model):
    """A table whose inserted rows are events. Rows that were there before are not taken."""

    table: Table = Field(description="schema.table, as written in the catalogue.")
    columns: SourceColumns = Field(description="What its columns mean.")
    topic: Topic | None = Field(None, description="Kafka topic of all events, when no column has it.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "has(self.topic) != has(self.columns.topic)",
            "give either topic or columns.topic: one of them says where the events go",
        ),
        Rule(
            " && ".join(f"!self.table.startsWith('{prefix}')" for prefix in _RESERVED),
            "the table belongs to Postgres or to Marty itself: name a table of your own",
            field=".table",
        ),
        topic_is_free("topic"),
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if (self.topic is None) == (self.columns.topic is None):
            raise InvalidDefinition(
                "spec.source.topic",
                "neither it nor columns.topic is given" if self.topic is None else "columns.topic is given as well",
                "give either topic or columns.topic: one of them says where the events go",
            )
        if self.table.startswith(_RESERVED):
            raise InvalidDefinition(
                "spec.source.table",
                f"{self.table!r} belongs to Postgres or to Marty itself",
                "name a table of your own",
            )
        check_topic_is_free("spec.source.topic", self.topic)
        return self
