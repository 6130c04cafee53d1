"""DBOS: a workflow of three async steps, started directly and awaited. DATABASE_URL names its system database."""

import asyncio
import os

from dbos import DBOS
from load import COMPENSATED, COMPLETED, REFUSED_EACH, serve

DBOS(
    config={
        "name": "bench",
        "system_database_url": os.environ["DATABASE_URL"],
        "log_level": "CRITICAL",
        "run_admin_server": False,
        "sys_db_pool_size": 20,
    }
)


class NoCarrier(Exception):
    pass


@DBOS.step()
async def reserve(number: int) -> int:
    return number


@DBOS.step()
async def charge(number: int) -> int:
    return number


@DBOS.step()
async def ship(number: int) -> int:
    if number % REFUSED_EACH == 0:
        raise NoCarrier
    return number


@DBOS.step()
async def refund(number: int) -> int:
    return number


@DBOS.step()
async def release(number: int) -> int:
    return number


@DBOS.workflow()
async def saga(number: int) -> str:
    await reserve(number)
    await charge(number)
    try:
        await ship(number)
    except NoCarrier:
        await refund(number)
        await release(number)
        return COMPENSATED
    return COMPLETED


async def main() -> None:
    DBOS.launch()
    await serve(saga)
    DBOS.destroy()


asyncio.run(main())
