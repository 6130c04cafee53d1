"""`python -m examples.choreography orders|inventory|payments`: one service, until SIGTERM.

Needs MARTY_DATABASE_URL, MARTY_KAFKA_BOOTSTRAP_SERVERS and the topic (TOPIC, by default order.events).
"""

import asyncio
import logging
import os
import signal
import sys

from examples.choreography.services import SERVICES
from marty_msf.patterns.choreography import EventBus


async def main(name: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bus = EventBus(name, topic=os.environ.get("TOPIC", "order.events"))
    SERVICES[name](bus)
    async with bus:
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1]))
