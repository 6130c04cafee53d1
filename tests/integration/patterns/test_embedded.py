"""The PostgreSQL that the library brings along for development: started, shared, stopped, its data kept."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.errors import DatabaseMissing, DatabaseUnavailable, InvalidDefinition
from marty_msf.patterns import embedded
from marty_msf.patterns.choreography import EventBus
from marty_msf.patterns.database import opened
from marty_msf.patterns.embedded import EmbeddedPostgres


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket in it, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="marty-") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "data"


async def test_processes_share_it_and_the_last_one_stops_it(directory: Path) -> None:
    first = await EmbeddedPostgres.start(directory)
    second = await EmbeddedPostgres.start(directory)
    assert first.url == second.url
    conn = await asyncpg.connect(first.url)
    await conn.execute("CREATE TABLE kept AS SELECT 1 AS one")
    await conn.close()
    await first.stop()
    conn = await asyncpg.connect(second.url)
    await conn.close()
    await second.stop()
    with pytest.raises(OSError, match=r"No such file|refused"):
        await asyncpg.connect(second.url)

    anew = await EmbeddedPostgres.start(directory)
    conn = await asyncpg.connect(anew.url)
    assert await conn.fetchval("SELECT one FROM kept") == 1
    await conn.close()
    await anew.stop()


async def test_without_a_configured_database_it_is_used_and_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MARTY_DATABASE_URL", raising=False)
    monkeypatch.setenv("MARTY_DATA_DIRECTORY", str(directory))
    async with EventBus("service", "order.events") as bus, bus.transaction() as connection:
        await bus.publish("order_created", {"order": 1}, aggregate_id="o1")
        assert await connection.fetchval("SELECT count(*) FROM marty.outbox") == 1
    assert f"using an embedded PostgreSQL 18, data in {directory}" in caplog.text


async def test_an_empty_url_never_stands_for_the_embedded_one(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARTY_DATABASE_URL", "")
    with pytest.raises(InvalidDefinition, match=r"^MARTY_DATABASE_URL: is set and empty"):
        await EventBus("service", "order.events", data_directory=str(directory)).start()
    # Whoever is given one does not look at the variable.
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        await EventBus("service", "order.events", database_url="postgresql://u@127.0.0.1:1/d").start()
    assert not await asyncio.to_thread(directory.exists)


async def test_without_the_extra_both_remedies_are_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARTY_DATABASE_URL", raising=False)
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(
        DatabaseMissing, match=r"marty-msf\[embedded\].*MARTY_DATABASE_URL|MARTY_DATABASE_URL.*embedded"
    ):
        async with opened(None, directory, "test", 1):
            pass
