"""Adding events to the outbox from Python. Callers own the transaction: that is what the outbox is for."""

from collections.abc import Mapping
from typing import Final

import asyncpg
import orjson
from asyncpg import Connection

from marty_msf.core.errors import InvalidEvent

ENQUEUE: Final = """
SELECT marty.enqueue_event_bytes($1, $2, $3, $4, $5, $6::text::jsonb)
"""


async def enqueue(
    conn: Connection,
    topic: str,
    event_type: str,
    payload: bytes,
    aggregate_id: str,
    aggregate_type: str,
    headers: Mapping[str, str],
) -> int:
    """Add an event to the caller's transaction; returns its number. Raises InvalidEvent; then the transaction is lost."""
    try:
        number: int = await conn.fetchval(
            ENQUEUE, topic, event_type, payload, aggregate_id, aggregate_type, orjson.dumps(dict(headers)).decode()
        )
    except asyncpg.PostgresError as error:
        if not (error.sqlstate or "").startswith("MA"):
            raise
        raise InvalidEvent(f"event {event_type!r}: {error}: {getattr(error, 'hint', None) or 'correct it'}") from error
    return number
