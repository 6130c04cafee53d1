"""An outbox from before there were slots keeps its events, its rights, its numbers and its positions."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from marty_msf.core.lanes import LANES
from marty_msf.store import migrations as schema
from marty_msf.store import outbox, outbox_position, outbox_retention
from marty_msf.store.migrations import Migration, migrate

pytestmark = pytest.mark.postgres

BEFORE_SLOTS = 20


@pytest.fixture
async def old(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection]:
    """A database at the version before slots."""
    everything = schema.migrations()
    conn = await asyncpg.connect(empty_postgres_url)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: [it for it in everything if it.version <= BEFORE_SLOTS])
        await migrate(conn)
    yield conn
    await conn.close(timeout=5)


async def enqueue(conn: asyncpg.Connection, event: str) -> int:
    number: int = await conn.fetchval("SELECT marty.enqueue_event('t', $1, '{}', 'key', 'thing')", event)
    return number


async def test_events_numbers_rights_and_positions_survive(old: asyncpg.Connection) -> None:
    tenant, reader = f"tenant_{secrets.token_hex(4)}", f"reader_{secrets.token_hex(4)}"
    await old.execute(f"CREATE ROLE {tenant}; CREATE ROLE {reader}")
    try:
        await old.execute(
            f"GRANT USAGE ON SCHEMA marty TO {tenant}, {reader}; GRANT INSERT ON marty.outbox TO {tenant};"
            f" GRANT SELECT (id) ON marty.outbox TO {tenant}; GRANT SELECT ON marty.outbox TO {reader} WITH GRANT OPTION"
        )
        published = [await enqueue(old, f"published-{number}") for number in range(3)]
        await outbox_position.load(old, range(LANES))
        await old.execute(
            "UPDATE marty.outbox_position SET prev = pg_current_snapshot(), published_total = 3 WHERE lane < 64"
        )
        waiting = [await enqueue(old, f"waiting-{number}") for number in range(3)]
        positions = await outbox_position.load(old, range(LANES))

        applied: list[Migration] = []
        await migrate(old, applied.append)

        assert [it.version for it in applied][:3] == [21, 22, 23]
        assert await outbox_position.load(old, range(LANES)) == positions
        opened = await outbox.open_window(old, positions, 100)
        assert opened.rows is not None
        assert [row["id"] for row in opened.rows] == waiting
        assert await enqueue(old, "new") == waiting[-1] + 1
        assert await old.fetch("SELECT id FROM marty.outbox ORDER BY id") == [
            (number,) for number in [*published, *waiting, waiting[-1] + 1]
        ]
        ring = await outbox_retention.ring(old)
        assert (ring.current, ring.used, ring.closed) == (0, True, {})

        await old.execute(f"SET ROLE {tenant}")
        assert await enqueue(old, "tenant's") == waiting[-1] + 2
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await old.fetch("SELECT payload FROM marty.outbox")
        await old.execute(f"RESET ROLE; SET ROLE {reader}")
        assert len(await old.fetch("SELECT payload FROM marty.outbox")) == 8
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await enqueue(old, "reader's")
        await old.execute(f"GRANT SELECT ON marty.outbox TO {tenant}; RESET ROLE")
    finally:
        await old.execute(f"RESET ROLE; DROP OWNED BY {tenant}, {reader}; DROP ROLE {tenant}, {reader}")
