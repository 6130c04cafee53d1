"""Keeps partitions ready for the instances of the next days. They are made days ahead, so a try that fails is repeated."""

import asyncio
import logging
from typing import Final

import asyncpg

from marty_msf.core.errors import MartyError
from marty_msf.store import saga_partition
from marty_msf.store.database import translate
from marty_msf.worker.backoff import pause

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 3600.0
#: After a try that failed.
AGAIN_SECONDS: Final = 60.0


async def keep_partitions(pool: asyncpg.Pool, stop: asyncio.Event) -> None:
    """Make what is missing, now and every hour, until `stop`."""
    while not stop.is_set():
        await pause(stop, LOOK_SECONDS if await _made(pool) else AGAIN_SECONDS)


async def _made(pool: asyncpg.Pool) -> bool:
    try:
        with translate():
            async with pool.acquire() as conn:
                made = await saga_partition.make(conn)
    except MartyError as error:
        # Rows for which there is no partition are kept elsewhere, so nothing else has to stop.
        logger.warning("partitions of saga journals were not made and are tried again: %s", error)
        return False
    if made:
        logger.info("made %d partitions for saga journals and contexts", made)
    return True
