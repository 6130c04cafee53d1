"""Which database the library works on: the one given, that of the environment, or the embedded one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from marty_msf.patterns.embedded import EmbeddedPostgres
from marty_msf.patterns.settings import from_process
from marty_msf.store.database import connect, open_pool, translate
from marty_msf.store.migrations import check_version, migrate
from marty_msf.worker.service import close


@asynccontextmanager
async def opened(
    url: str | None, data_directory: Path | None, application_name: str, size: int
) -> AsyncIterator[asyncpg.Pool]:
    """A pool of up to `size` connections to a database whose schema is up to date.

    Raises DatabaseUnavailable, SchemaOutdated (then run `marty migrate`), InvalidDefinition when MARTY_DATABASE_URL is
    needed and empty, or DatabaseMissing when no database is configured and the embedded one, which is migrated here,
    cannot be used.
    """
    settings = from_process()
    url = settings.database() if url is None else url
    if url is not None:
        async with _pool(url, application_name, size) as pool:
            yield pool
        return
    embedded = await EmbeddedPostgres.start(data_directory or settings.data_directory)
    try:
        with translate():
            conn = await connect(embedded.url)
            try:
                await migrate(conn)
            finally:
                await conn.close()
        async with _pool(embedded.url, application_name, size) as pool:
            yield pool
    finally:
        await embedded.stop()


@asynccontextmanager
async def _pool(url: str, application_name: str, size: int) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(url, size, application_name)
    try:
        with translate():
            async with pool.acquire() as conn:
                await check_version(conn)
        yield pool
    finally:
        await close(pool)
