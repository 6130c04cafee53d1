"""How long an OutboxRelay keeps what is published."""

from pydantic import Field

from marty_msf.core.resources.spec import Identifier, Model


class Retention(Model):
    """What becomes of events after they were published."""

    published_hours: int = Field(
        24,
        ge=1,
        le=8760,
        description="Published events stay at least so long, and about half as long again at most. Never removed: what is not published.",
    )
    archive_table: Identifier | None = Field(
        None, description="Table in the schema marty that gets a copy before they go; made when it is missing."
    )
