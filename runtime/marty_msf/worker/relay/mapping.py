"""Keeps the trigger on an application's own outbox table as `spec.source` says."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import DatabaseUnavailable, MappingInvalid
from marty_msf.core.outbox.mapping import check
from marty_msf.core.resources.outbox_source import Source
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import outbox_mapping
from marty_msf.store.database import translate
from marty_msf.worker.backoff import pause
from marty_msf.worker.board import Board

logger = logging.getLogger(__name__)

#: A table that was made anew has no trigger, and one whose column was renamed refuses its rows.
LOOK_SECONDS: Final = 10.0
#: After something that a person, or the end of a transaction, mends.
RETRY_SECONDS: Final = 5.0
#: A table is in use for so many tries in a row before that is told.
BUSY_TIMES: Final = 10
REMEDY: Final = "let who runs `marty migrate` GRANT EXECUTE ON FUNCTION marty.map_outbox_table(jsonb, boolean) TO the user of the workers"


class SourceTable:
    """The mapping of one relay; its pods do the same, one after the other."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        source: Source | None,
        board: Board,
        *,
        look_seconds: float = LOOK_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._pool = pool
        self._source = source
        self._board = board
        self._look_seconds = look_seconds
        self._retry_seconds = retry_seconds
        self._installed = False
        #: How often in a row the table was in use.
        self._busy = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Install the mapping, or remove a former one; then look after it until `stop`. What is wrong is told on the board
        only: events that are enqueued otherwise go on.
        """
        while not stop.is_set():
            try:
                with translate():
                    await self.run_once()
            except MappingInvalid as error:
                self._complain(str(error))
            except DatabaseUnavailable as error:
                logger.info("spec.source is not applied yet: it is tried again: %s", error)
            except Exception as error:
                logger.exception("spec.source was not applied")
                self._complain(f"spec.source is not applied yet: it is tried again: {type(error).__name__}: {error}")
            else:
                self._board.clear(ProblemReason.MAPPING_INVALID)
                if self._source is None:
                    return
                await pause(stop, self._look_seconds)
                continue
            await pause(stop, self._retry_seconds)

    async def run_once(self) -> None:
        """Install it the first time; later mend it, unless another specification was installed since.

        Raises MappingInvalid, nothing done: what was installed before goes on.
        """
        async with self._pool.acquire() as conn:
            if self._source is not None:
                check(self._source, await outbox_mapping.look(conn, self._source))
            left = await self._install(conn)
        for table in left:
            logger.info(
                "the trigger marty_outbox on %s does nothing any more, and only the table's owner may remove it: "
                "DROP TRIGGER marty_outbox ON %s",
                table,
                table,
            )
        self._installed = True

    async def _install(self, conn: Connection) -> Sequence[str]:
        try:
            left = await outbox_mapping.install(conn, self._source, replace=not self._installed)
        except asyncpg.InsufficientPrivilegeError as error:
            if self._source is None:
                return ()  # who may not install a mapping has none to remove
            raise MappingInvalid("spec.source.table", f"{self._source.table} is not mapped: {error}", REMEDY) from error
        except asyncpg.LockNotAvailableError as error:
            self._busy += 1
            if self._source is None or self._busy < BUSY_TIMES:
                raise
            raise MappingInvalid(
                "spec.source.table",
                f"{self._source.table} has been in use without a gap",
                "end the transaction that stays open (pg_locks, pg_stat_activity)",
            ) from error
        self._busy = 0
        return left

    def _complain(self, message: str) -> None:
        self._board.report(ProblemReason.MAPPING_INVALID, message, blocking=False, unmet=self._source is not None)
