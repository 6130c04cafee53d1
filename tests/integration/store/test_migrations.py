"""`marty migrate`: from nothing to the newest schema, any number of runs at once."""

import asyncio

import asyncpg
import pytest

from marty_msf.core.errors import SchemaOutdated
from marty_msf.store.migrations import check_version, installed_versions, migrate, migrations, required_version

pytestmark = pytest.mark.postgres


async def run(url: str) -> int:
    conn = await asyncpg.connect(url)
    try:
        return len(await migrate(conn))
    finally:
        await conn.close()


async def test_many_runs_at_once_apply_each_file_once(empty_postgres_url: str) -> None:
    applied = await asyncio.gather(*(run(empty_postgres_url) for _ in range(6)))

    assert sorted(applied) == [0, 0, 0, 0, 0, len(migrations())]
    assert await run(empty_postgres_url) == 0


async def test_a_database_without_the_schema_is_outdated_and_the_message_says_what_to_do(
    empty_postgres_url: str,
) -> None:
    conn = await asyncpg.connect(empty_postgres_url)
    try:
        with pytest.raises(SchemaOutdated, match=r"version 0, .* run `marty migrate`"):
            await check_version(conn)
        await migrate(conn)
        await check_version(conn)
        assert max(await installed_versions(conn)) == required_version()
    finally:
        await conn.close()


async def test_a_newer_database_is_accepted(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO marty.schema_version (version, name) VALUES ($1, 'later')", required_version() + 1)

    await check_version(conn)


def test_the_files_are_numbered_without_a_gap() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, required_version() + 1))
