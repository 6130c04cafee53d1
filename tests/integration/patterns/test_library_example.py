"""The example of sagas in an application's own processes: as it is shown, and with one of its processes killed."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from examples.library.bank import TABLE, Bank, transfer
from marty_msf.patterns.saga import SagaMetrics, SagaOrchestrator
from tests.support.processes import running
from tests.support.servers import ROOT
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(180)]

TRANSFERS = 200
START = 10_000


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket in it, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="marty-") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "data"


async def test_it_shows_what_its_readme_says(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARTY_DATABASE_URL", raising=False)
    environment = {"MARTY_DATA_DIRECTORY": str(directory)}
    async with running(["-m", "examples.library"], tmp_path / "log", environment) as process:
        assert await process.wait(60) == 0, process.output()
    said = [line for line in process.output().splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    readme = await asyncio.to_thread((ROOT / "examples/library/README.md").read_text)
    assert "```\n" + "\n".join(said) + "\n```" in readme


async def test_no_money_is_lost_or_made_when_a_process_is_killed(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    await conn.execute(TABLE)
    await conn.execute("INSERT INTO account VALUES ('alice', $1), ('bob', 0)", START)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(postgres_url, min_size=0, max_size=4))
        environment = {"MARTY_DATABASE_URL": postgres_url}
        workers = [
            await stack.enter_async_context(
                running(["-m", "examples.library", "work"], tmp_path / f"{number}.log", environment)
            )
            for number in range(2)
        ]
        joined = (
            "SELECT count(DISTINCT holder) FROM marty.lease WHERE scope = 'saga:_python/bank' AND expires_at > now()"
        )
        await eventually(lambda: conn.fetchval(joined), lambda count: count == 2)
        orchestrator = SagaOrchestrator("bank", database_url=postgres_url)
        Bank(pool).register(orchestrator)
        await stack.enter_async_context(orchestrator)

        async def start(number: int) -> None:
            # Every tenth one goes to nobody and has to be given back; each is started twice.
            to_account = "nobody" if number % 10 == 0 else "bob"
            for _ in range(2):
                await transfer(orchestrator, "alice", to_account, 7, f"t-{number}")

        await asyncio.gather(*map(start, range(TRANSFERS // 2)))
        workers[0].send(signal.SIGKILL)
        await asyncio.gather(*map(start, range(TRANSFERS // 2, TRANSFERS)))

        def over(metrics: SagaMetrics) -> bool:
            return metrics.completed_sagas + metrics.compensated_sagas == TRANSFERS

        metrics = await eventually(orchestrator.get_metrics, over, seconds=90, every=0.2)
    assert (metrics.total_sagas, metrics.compensated_sagas) == (TRANSFERS, TRANSFERS // 10)
    moved = 7 * TRANSFERS * 9 // 10
    assert dict(await conn.fetch("SELECT name, balance FROM account")) == {"alice": START - moved, "bob": moved}
