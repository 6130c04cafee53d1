"""Publishing the outbox from a process of the application's own, with the relay that the pods of an OutboxRelay run."""

import secrets
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry

from marty_msf.core.errors import InvalidDefinition, MartyError
from marty_msf.core.names import LIBRARY_NAMESPACE
from marty_msf.core.resources.kafka import check_linger
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.worker_config import RelayConfig
from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns import arguments
from marty_msf.patterns.arguments import must_be
from marty_msf.patterns.database import opened
from marty_msf.patterns.life import Life
from marty_msf.patterns.outbox.broker import KafkaMessageBroker
from marty_msf.patterns.outbox.config import OutboxConfig, relay_spec
from marty_msf.patterns.outbox.repository import EnhancedOutboxRepository
from marty_msf.patterns.outbox.running import Running
from marty_msf.patterns.outbox.status import OutboxMetrics
from marty_msf.store.database import translate
from marty_msf.store.session import Session, is_of_this_database
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context

#: Of processors in the database: all processes are one relay, which share its lanes.
NAME: Final = "outbox"
#: Reading, positions, leases, numbers.
CONNECTIONS: Final = 6


class EnhancedOutboxProcessor:
    """Publishes events, with every other process that has a processor for the same database.

    A database's outbox is published by processors or by one OutboxRelay, never by both: who comes second waits
    (`OutboxOwned` in health_check) and takes over a minute after the first one is gone.
    """

    def __init__(
        self,
        repository: EnhancedOutboxRepository | None = None,
        message_broker: KafkaMessageBroker | None = None,
        config: OutboxConfig | None = None,
        *,
        database_url: str | None = None,
        data_directory: Path | str | None = None,
    ) -> None:
        """`config` is by default the repository's. Only the address of the repository's database is used, never its session.

        The database is `database_url`, else that of the repository's SQLAlchemy engine, MARTY_DATABASE_URL or the embedded
        PostgreSQL. Raises InvalidDefinition, also when the broker's linger_ms and the configuration contradict each other.
        """
        if message_broker is None:
            raise InvalidDefinition("message_broker", "is missing", "give what create_kafka_message_broker returns")
        must_be("message_broker", message_broker, KafkaMessageBroker, "give what create_kafka_message_broker returns")
        if repository is not None:
            must_be("repository", repository, EnhancedOutboxRepository, "give the application's own, or leave it out")
        if config is not None:
            must_be("config", config, OutboxConfig, "give an OutboxConfig, or leave it out")
        self._session = repository.session if repository else None
        self._broker = message_broker
        self._config = config or (repository.config if repository else OutboxConfig())
        self._spec()
        self._database_url = arguments.database_url(database_url)
        self._data_directory = arguments.data_directory(data_directory)
        self._board = Board()
        self._life: Life[Running] = Life("the outbox processor")

    async def start(self) -> None:
        """Connect and publish until `stop`, with the configuration as it is now.

        Raises DatabaseUnavailable, SchemaOutdated (then run `marty migrate`), DatabaseMissing, and InvalidDefinition when
        the repository writes to another database; Kafka's absence and later losses are waited out.
        """
        async with self._life.starting() as stack:
            spec = self._spec()
            config = RelayConfig(namespace=LIBRARY_NAMESPACE, name=NAME, spec=spec)
            self._board.clear()
            self._board.report(ProblemReason.STARTING, "the processor does not publish yet")
            url = self._database_url or getattr(self._session, "url", None)
            pool = await stack.enter_async_context(
                opened(url, self._data_directory, f"marty-relay {config.resource}", CONNECTIONS)
            )
            if url is None and self._session:
                await _check_database(pool, self._session)
            holder = f"{NAME}/{secrets.token_hex(4)}"
            running = Running(
                Context(pool, holder, config.resource, self._board, new_registry(self._board)), config, self._broker
            )
            await running.start()
            stack.push_async_callback(running.stop)
            self._life.running = running

    async def stop(self) -> None:
        """Let events in flight be acknowledged and let go of Kafka and the database. Does nothing when it does not run.

        Waits for a start that is under way, and is done as a whole: who is cancelled meanwhile is told so afterwards.
        """
        await self._life.stop()

    def get_metrics(self) -> OutboxMetrics:
        """Numbers of the whole outbox, as of the last second or two. Raises NotRunning."""
        return self._life.at_work().metrics

    async def get_processing_lag(self) -> float:
        """Age of the oldest committed event that the relay has not come by, in seconds; 0 without any.

        Raises DatabaseUnavailable, NotRunning.
        """
        return (await self._life.at_work().look()).processing_lag_seconds

    async def health_check(self) -> dict[str, Any]:
        """`status` is healthy, degraded (something waits for a person) or unhealthy; `problems` says why.

        Unhealthy while nothing can be published, or the lag is not below the configuration's healthy_lag_seconds.
        `oldest_open_writer` names who keeps a transaction open (name and seconds, or None): its events wait for its end.
        """
        running = self._life.running
        if running is None:
            return {"status": "unhealthy", "problems": ["the outbox processor is not started"]}
        current = self._board.current()
        problems, lag, failed = [problem.message for problem in current], None, None
        writer: dict[str, Any] | None = None
        unhealthy = self._board.blocked
        try:
            found = await running.look()
        except MartyError as error:
            problems, unhealthy = [str(error), *problems], True
        else:
            lag, failed = found.processing_lag_seconds, found.failed_events
            writer = asdict(found.oldest_open_writer) if found.oldest_open_writer else None
            if lag >= self._config.healthy_lag_seconds:
                problems.append(
                    f"the oldest event waits for {lag:.0f} s: {self._config.healthy_lag_seconds} are healthy"
                )
                unhealthy = True
            if failed and not any(problem.reason is ProblemReason.POISON_EVENT for problem in current):
                problems.append(f"{failed} dead letters wait for a person: see `marty dlq list`")
        status = "unhealthy" if unhealthy else "degraded" if problems else "healthy"
        return {
            "status": status,
            "problems": problems,
            "lag": lag,
            "failed_events": failed,
            "oldest_open_writer": writer,
        }

    @property
    def prometheus_registry(self) -> CollectorRegistry:
        """What `prometheus_client` can expose: the metrics that a relay's pods have, of this process. Raises NotRunning."""
        return self._life.at_work().context.registry

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _spec(self) -> OutboxRelaySpec:
        """As of now; here the broker and the configuration, which may change between two starts, meet."""
        spec = relay_spec(self._config, self._broker.connection.servers)
        check_linger("linger_ms", self._broker.tuning.linger_ms, "batch_timeout_ms", spec.batch_timeout_ms)
        return spec


async def _check_database(pool: Any, session: Session) -> None:
    """Events that one database gets and another one is looked through for would never be published."""
    pid = session.server_pid
    if pid is None:
        return
    with translate():
        async with pool.acquire() as conn:
            if await is_of_this_database(conn, pid):
                return
    raise InvalidDefinition(
        "database_url",
        "is not given, and the repository's connection goes to another database than MARTY_DATABASE_URL (or, without it, "
        "the embedded PostgreSQL)",
        "give the URL of the database that the repository writes to",
    )
