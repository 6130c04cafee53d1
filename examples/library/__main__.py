"""`python -m examples.library`: make accounts, move money, show what became of it. `work`: only help, until SIGTERM.

With MARTY_DATABASE_URL on that Postgres (`marty migrate` it first), else on the embedded one of the extra `embedded`.
"""

import asyncio
import logging
import signal
import sys

import asyncpg

from examples.library.bank import TABLE, Bank, transfer
from marty_msf.patterns.database import opened
from marty_msf.patterns.saga import SagaOrchestrator


async def work(orchestrator: SagaOrchestrator) -> None:
    """Any number of processes; each may be killed at any time."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with orchestrator:
        await stop.wait()


async def show(orchestrator: SagaOrchestrator, pool: asyncpg.Pool) -> None:
    """Two transfers, of which one cannot be done."""
    await pool.execute(TABLE)
    await pool.execute("INSERT INTO account VALUES ('alice', 100), ('bob', 0) ON CONFLICT DO NOTHING")
    async with orchestrator:
        for key, to_account, amount in (("t-1", "bob", 70), ("t-2", "nobody", 10)):
            saga_id = await transfer(orchestrator, "alice", to_account, amount, key)
            status = await orchestrator.wait_for_saga(saga_id)
            print(f"{key}: {status.status}{f' ({status.last_error})' if status.last_error else ''}")
        metrics = await orchestrator.get_metrics()
        print(f"{metrics.completed_sagas} of {metrics.total_sagas} sagas completed")
    for name, balance in await pool.fetch("SELECT name, balance FROM account ORDER BY name"):
        print(f"{name}: {balance}")


async def main(arguments: list[str]) -> None:
    # The service's own connections; the orchestrator has others.
    async with opened(None, None, "bank", 4) as pool:
        orchestrator = SagaOrchestrator("bank")
        Bank(pool).register(orchestrator)
        await (work(orchestrator) if arguments == ["work"] else show(orchestrator, pool))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1:]))
