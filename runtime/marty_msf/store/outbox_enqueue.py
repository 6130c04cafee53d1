"""Adding events to the outbox from Python. Callers own the transaction: that is what the outbox is for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from marty_msf.core.errors import InvalidEvent
from marty_msf.core.outgoing import Outgoing
from marty_msf.store.session import Executor, refusal, schema_told

ENQUEUE: Final = """
SELECT marty.enqueue_event_bytes(
    $1::text, $2::text, $3::bytea, $4::text, $5::text, $6::text::jsonb, $7::text, $8::integer, $9::timestamptz, $10::text)
"""


async def enqueue(conn: Executor, event: Outgoing) -> int:
    """Add an event to the caller's transaction; returns its number.

    Raises InvalidEvent and SchemaOutdated; then the transaction is lost.
    """
    with _told():
        rows = await conn.fetch(ENQUEUE, *event)
    return int(rows[0][0])


ENQUEUE_MANY: Final = """
SELECT marty.enqueue_events_bytes(
    $1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[]::jsonb[], $7::text[], $8::integer[],
    $9::timestamptz[], $10::text[])
"""


async def enqueue_many(conn: Executor, events: Sequence[Outgoing]) -> list[int]:
    """Add events in their order, all or none, in one round trip; returns their numbers. Raises as above."""
    if not events:
        return []
    columns = [list(column) for column in zip(*events, strict=True)]
    with _told():
        rows = await conn.fetch(ENQUEUE_MANY, *columns)
    return [int(row[0]) for row in rows]


WAKE: Final = "SELECT marty.wake_relay()"


async def wake(conn: Executor) -> None:
    """Hint to a waiting relay that something was committed; for a transaction of its own."""
    with schema_told():
        await conn.fetch(WAKE)


@contextmanager
def _told() -> Iterator[None]:
    """Raises InvalidEvent for what marty.enqueue_event says against the event, SchemaOutdated when it is not there."""
    with schema_told():
        try:
            yield
        except Exception as error:
            state, message, hint = refusal(error)
            if state.startswith("MA"):
                raise InvalidEvent(f"{message}: {hint or 'correct it'}") from error
            raise
