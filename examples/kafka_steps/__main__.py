"""`python -m examples.kafka_steps`: the payment service, until SIGTERM.

Needs MARTY_DATABASE_URL, MARTY_KAFKA_BOOTSTRAP_SERVERS and the topic (TOPIC, by default payment.commands).
"""

import asyncio
import logging
import os
import signal

from examples.kafka_steps.payments import serve
from marty_msf.patterns.choreography import EventBus


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bus = EventBus("payments", topic=os.environ.get("TOPIC", "payment.commands"))
    serve(bus)
    async with bus:
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
