"""Kafka messages that a saga reads and cannot use: kept with the reason, and told, while the others go on."""

import time
from collections.abc import Sequence
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.user_values import kept
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import saga_trigger
from marty_msf.store.database import translate
from marty_msf.store.saga_trigger import PoisonTrigger
from marty_msf.worker.board import Board
from marty_msf.worker.kafka_input import Record

#: How soon the board follows when a person removes parked events.
TELL_SECONDS: Final = 10.0
COUNTED: Final = 1000
_ID_CHARACTERS: Final = 500
_ERROR_CHARACTERS: Final = 2000


class ParkedEvents:
    """Those of one saga, of its triggers and of replies to its commands."""

    def __init__(self, pool: asyncpg.Pool, board: Board, resource: str, slot: int) -> None:
        """`slot` is the counter row of this process."""
        self._pool = pool
        self._board = board
        self._resource = resource
        self._slot = slot
        self._told = float("-inf")

    async def keep(self, conn: Connection, events: Sequence[PoisonTrigger]) -> None:
        """In the caller's transaction."""
        await saga_trigger.park_events(conn, self._resource, self._slot, events)

    async def look(self) -> None:
        """`tell`, if that was long ago."""
        if time.monotonic() - self._told > TELL_SECONDS:
            await self.tell()

    async def tell(self) -> None:
        """Put the parked events on the board, or take the problem down when a person removed them."""
        with translate():
            async with self._pool.acquire() as conn:
                parked = await saga_trigger.newest_parked(conn, self._resource, COUNTED)
        self._told = time.monotonic()
        if parked is None:
            self._board.clear(ProblemReason.POISON_EVENT)
            return
        count, event = parked
        self._board.report(
            ProblemReason.POISON_EVENT,
            f"{count}{' or more' if count == COUNTED else ''} Kafka messages could not be used and wait in"
            f" marty.saga_parked_event, the others went on; the newest, topic {event.topic!r} partition {event.partition}"
            f" offset {event.offset}: {event.error}. What is corrected holds for later messages: start what these were to start"
            " by hand, then delete their rows",
            blocking=False,
        )


def poison(record: Record, event_id: str, error: str) -> PoisonTrigger:
    """A message with the reason why it cannot be used, in a form that Postgres takes."""
    return PoisonTrigger(
        record.topic,
        record.partition,
        record.offset,
        event_id[:_ID_CHARACTERS].replace("\0", ""),
        kept(error[:_ERROR_CHARACTERS]),
        record.key,
        record.value,
    )
