"""What a processor runs between start and stop: the same relay as the pods of an OutboxRelay, supervised the same way."""

import asyncio
from contextlib import suppress
from typing import Final

from marty_msf.core.errors import MartyError
from marty_msf.core.worker_config import RelayConfig
from marty_msf.patterns.outbox.broker import KafkaMessageBroker
from marty_msf.patterns.outbox.gauges import OutboxGauges
from marty_msf.patterns.outbox.status import OpenWriter, OutboxMetrics
from marty_msf.worker.backoff import pause
from marty_msf.worker.broker.quiet import quiet_client
from marty_msf.worker.relay.role import RelayRole
from marty_msf.worker.role import Context
from marty_msf.worker.service import supervise

LOOK_SECONDS: Final = 1.0


class Running:
    """Publishes the outbox, again and again after losses of the database or of Kafka, until `stop`."""

    def __init__(self, context: Context, config: RelayConfig, broker: KafkaMessageBroker) -> None:
        self.context = context
        #: As of the last look.
        self.metrics = OutboxMetrics()
        self._gauges = OutboxGauges(context.registry)
        self._role = RelayRole(context, config, broker.producer)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin. Raises DatabaseUnavailable."""
        await self.look()
        with quiet_client():
            work = supervise(self._role, self.context.pool, self.context.board, self._stop)
            self._tasks = [asyncio.create_task(work), asyncio.create_task(self._keep_looking())]

    async def stop(self) -> None:
        """Let what is in flight be acknowledged, within bounds, and hand the lanes back."""
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
            for task in self._tasks:
                task.result()

    async def look(self) -> OutboxMetrics:
        """The numbers as they are now. Raises DatabaseUnavailable."""
        totals = await self._role.totals()
        writer = totals.oldest_open_writer
        self.metrics = OutboxMetrics(
            pending_events=totals.pending,
            failed_events=totals.dead,
            published_events=totals.published_total,
            failed_attempts=totals.failed_total,
            events_per_second=totals.events_per_second,
            error_rate=totals.error_rate,
            processing_lag_seconds=totals.lag_seconds,
            oldest_pending_seconds=totals.oldest_pending_seconds,
            oldest_open_writer=OpenWriter(writer.name, writer.seconds) if writer else None,
        )
        self._gauges.show(self.metrics)
        return self.metrics

    async def _keep_looking(self) -> None:
        while not self._stop.is_set():
            # The role reports the database's absence; the numbers stay as they were.
            with suppress(MartyError):
                await self.look()
            await pause(self._stop, LOOK_SECONDS)
