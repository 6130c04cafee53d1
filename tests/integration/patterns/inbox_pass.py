"""A consumer's process that is killed between an event's effects and their commit, and once more just after it.

`python -m tests.integration.patterns.inbox_pass DRIVER URL (before|after)`: says `there` and waits for its end.
"""

import asyncio
import sys

from marty_msf.patterns.outbox import Inbox
from tests.support.drivers import DRIVERS

EFFECT = "UPDATE stock SET left_over = left_over - 1"
HEADERS = {"ce_source": "/shop", "ce_id": "e-1"}


async def main(name: str, url: str, where: str) -> None:
    async with DRIVERS[name](url) as driver:
        async with driver.transaction(), Inbox("stock").once(driver.given, HEADERS) as first:
            if first:
                await driver.execute(EFFECT)
            if where == "before":
                await stay()
        await stay()


async def stay() -> None:
    print("there", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
