"""How long an OutboxRelay keeps what is published."""

import re
from collections.abc import Sequence
from typing import ClassVar, Final, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import Identifier, Model, Rule

#: Marty's own tables in the schema marty, slots of the outbox and partitions of sagas included.
OWN_TABLE: Final = (
    "^(inbox|inbox_parked|kafka_position|lease"
    "|outbox|outbox_(ahead|cause|held|owner|position|ring|slot|source|verb|[0-9]+)"
    "|projection_(counter|key|stream|table)"
    "|saga_(breaker|counter|definition|instance|key|lock|parked_event|reply|retention|type|verb)"
    "|saga_(input|journal)(_other|_[0-9]{8})?"
    "|schema_version|step_guard|worker)$"
)


def check_archive(path: str, table: str | None) -> None:
    """Raise InvalidDefinition for a table that holds something else."""
    if table is not None and re.match(OWN_TABLE, table):
        raise InvalidDefinition(
            path, f"{table!r} is a table of Marty's own", "use another name, such as outbox_archive"
        )


class Retention(Model):
    """What becomes of events after they were published."""

    published_hours: int = Field(
        24,
        ge=1,
        le=8760,
        description="Published events stay at least so long, and about half as long again at most. Never removed: what is not published.",
    )
    archive_table: Identifier | None = Field(
        None,
        description="Table in the schema marty that gets a copy before they go; made when it is missing. None of Marty's own tables.",
    )

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            f"!has(self.archiveTable) || !self.archiveTable.matches('{OWN_TABLE}')",
            "the table is Marty's own: use another name, such as outbox_archive",
            field=".archiveTable",
        ),
    )

    @model_validator(mode="after")
    def _archive_is_no_table_of_ours(self) -> Self:
        check_archive("spec.retention.archiveTable", self.archive_table)
        return self
