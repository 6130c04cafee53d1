"""Every statement fits the migrated schema."""

import asyncpg
import pytest

from marty_msf.store import saga_archive, saga_history, saga_instance, saga_start, saga_trigger, saga_wave

STATEMENTS = {
    f"{module.__name__}.{name}": sql
    for module in (saga_archive, saga_history, saga_instance, saga_start, saga_trigger, saga_wave)
    for name, sql in vars(module).items()
    if name.isupper() and isinstance(sql, str) and not sql.startswith(("SET", "RESET"))
}


@pytest.mark.postgres
@pytest.mark.parametrize("sql", STATEMENTS.values(), ids=STATEMENTS)
async def test_statement_prepares_against_the_migrated_schema(conn: asyncpg.Connection, sql: str) -> None:
    await conn.prepare(sql)


@pytest.mark.postgres
async def test_an_ended_instance_has_an_end(conn: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute(
            "INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state)"
            " VALUES (gen_random_uuid(), 'a/b', 0, 'r', 'k', 'Completed')"
        )
