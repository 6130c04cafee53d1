"""The projection as the service shell runs it: one connection's life of input and projector, totals and lag."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from marty_msf.core.errors import BrokerUnavailable
from marty_msf.core.resources.kinds import Role
from marty_msf.core.worker_config import ProjectionConfig
from marty_msf.core.worker_status import Local, ProblemReason, ProjectionTotals
from marty_msf.store import positions, projection, read_model
from marty_msf.store.database import translate
from marty_msf.store.read_model import Table
from marty_msf.worker.backoff import pause
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_input import KafkaInput
from marty_msf.worker.kafka_lag import Lag
from marty_msf.worker.ownership import any_of
from marty_msf.worker.projection.metrics import ProjectionMetrics
from marty_msf.worker.projection.projector import Projector
from marty_msf.worker.role import Context

LAG_SECONDS: Final = 5.0


class ProjectionRole:
    """One Projection resource in this process."""

    def __init__(self, context: Context, config: ProjectionConfig) -> None:
        self._context = context
        self._spec = config.spec
        self._scope = f"{Role.PROJECTION.value}:{context.resource}"
        self._kafka: KafkaInput | None = None
        self._lag = Lag(0, 0)
        self._metrics = ProjectionMetrics(context.registry)
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")

    async def run(self, stop: asyncio.Event) -> None:
        """Make or verify the table, then project until `stop`; hands its partitions back after the last batch."""
        await self._prepare_table()
        kafka = KafkaInput(
            self._context,
            role=Role.PROJECTION.value,
            connection=KafkaConnection.of(self._spec.kafka),
            topics=self._spec.source.kafka.topics,
        )
        projector = Projector(self._context.pool, kafka, self._spec, self._scope)
        self._kafka = kafka
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(kafka.run(stop))
                tasks.create_task(self._tell_started(kafka, stop))
                tasks.create_task(projector.run(stop, lambda done: self._metrics.passed(done, kafka.owned)))
                tasks.create_task(self._watch_lag(kafka, stop))
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._kafka = None

    async def totals(self) -> ProjectionTotals:
        """Counter rows and positions of all workers; while Kafka is away the lag is the last one known."""
        with translate():
            async with self._context.pool.acquire() as conn:
                processed, duplicates = await projection.totals(conn, self._scope)
        if self._kafka:
            await self._read_lag(self._kafka)
        return ProjectionTotals(
            processed_total=processed,
            duplicates_total=duplicates,
            lag=self._lag.events,
            lag_seconds=self._lag.seconds,
        )

    def local(self) -> Local:
        """About this process; its lanes are partitions."""
        return Local(
            holder=self._context.holder, lanes=self._kafka.owned if self._kafka else 0, started_at=self._started_at
        )

    def routes(self) -> Sequence[web.RouteDef]:
        """A projection takes no requests."""
        return ()

    async def _prepare_table(self) -> None:
        with translate():
            async with self._context.pool.acquire() as conn, conn.transaction():
                fresh = not await positions.anything_applied(conn, self._scope)
                await read_model.prepare(conn, Table.of(self._spec.read_model), self._context.resource, fresh=fresh)

    async def _tell_started(self, kafka: KafkaInput, stop: asyncio.Event) -> None:
        """The database works; once Kafka was looked at, its own problems are on the board and nothing else is wrong."""
        board = self._context.board
        board.clear(
            ProblemReason.DATABASE_UNAVAILABLE,
            ProblemReason.SCHEMA_OUTDATED,
            ProblemReason.READ_MODEL_MISMATCH,
            ProblemReason.INTERNAL_ERROR,
        )
        await any_of(stop, kafka.looked)
        board.clear(ProblemReason.STARTING)

    async def _watch_lag(self, kafka: KafkaInput, stop: asyncio.Event) -> None:
        """Keep the gauges fresh, also when nobody asks for the status."""
        while not stop.is_set():
            await self._read_lag(kafka)
            await pause(stop, LAG_SECONDS)

    async def _read_lag(self, kafka: KafkaInput) -> None:
        """While Kafka is away the last lag known stays: the board shows that it is away."""
        with suppress(BrokerUnavailable):
            self._lag = await kafka.lag()
            self._metrics.lag(self._lag)
