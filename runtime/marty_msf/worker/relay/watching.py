"""Whether Kafka answers, also while there is nothing to publish: an idle relay would learn of an outage with the next event."""

import asyncio
from typing import Final

from marty_msf.core.errors import BrokerUnavailable
from marty_msf.worker.board import Board
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.groups import TaskGroup

#: Without an acknowledgement for so long Kafka is asked a question.
EVERY_SECONDS: Final = 2
ANSWER_SECONDS: Final = 2


class BrokerWatch:
    """Asks over the connections of the producer that is in use; a relay that publishes asks nothing."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._producer: KafkaProducer | None = None
        self._heard = False
        #: Kafka did not answer the last question, and has acknowledged nothing since.
        self.silent = False

    def use(self, producer: KafkaProducer | None) -> None:
        """The producer from now on; without one nothing is asked, because whoever connects tells how that goes."""
        self._producer = producer
        self.acknowledged()

    def acknowledged(self) -> None:
        """Kafka has shown that it is there."""
        self._heard, self.silent = True, False

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop`, which does not wait for an answer."""
        async with TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            await stop.wait()
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            self._heard = False
            await asyncio.sleep(EVERY_SECONDS)
            if self._producer is not None and not self._heard:
                await self._ask(self._producer)

    async def _ask(self, producer: KafkaProducer) -> None:
        try:
            await producer.ask(ANSWER_SECONDS)
        except BrokerUnavailable as error:
            # An answer to somebody else meanwhile, or the end of this session, says more.
            if self._producer is producer and not self._heard:
                self.silent = True
                self._board.report_error(error)
        else:
            self.silent = False
