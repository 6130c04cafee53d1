"""One service's connections: its own schema first on the search path, its tables made at the first start."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from shop.settings import Settings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
else:
    Connection = asyncpg.Connection

#: Two pods that start together must not create the same tables at once.
LOCK_TABLES: Final = "SELECT pg_advisory_xact_lock(hashtextextended('shop.tables', 0))"

RETRY_SECONDS: Final = 0.5

log = logging.getLogger("shop.database")


async def connect(settings: Settings, schema: str) -> asyncpg.Pool:
    """A pool whose connections see `schema` first. Waits for as long as Postgres does not answer."""
    while True:
        try:
            return await asyncpg.create_pool(
                settings.database_url,
                min_size=1,
                max_size=settings.pool_size,
                command_timeout=15,
                server_settings={"search_path": schema, "application_name": f"shop-{schema}"},
            )
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            log.warning("Postgres does not answer yet (%s), trying again", error)
            await asyncio.sleep(RETRY_SECONDS)


async def create_tables(pool: asyncpg.Pool, statements: str) -> None:
    """Run the service's `CREATE … IF NOT EXISTS` statements in one transaction."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_TABLES)
        await connection.execute(statements)
