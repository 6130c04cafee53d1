"""The event bus of one service: events leave with the transaction that causes them, and are handled once each.

Publishing goes through the outbox, which a relay (an OutboxRelay, or `marty run relay`) brings to Kafka; handling reads
Kafka itself. Both need the service's own Postgres, and nothing else is shared between services.
"""

import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from asyncpg import Connection

from marty_msf.core import event_identity
from marty_msf.core.errors import InvalidDefinition, InvalidEvent, MartyError, NotRunning
from marty_msf.core.json_payload import encode
from marty_msf.core.names import LIBRARY_NAMESPACE
from marty_msf.core.outgoing import outgoing
from marty_msf.core.trace import parsed
from marty_msf.core.user_values import keepable
from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns import arguments
from marty_msf.patterns.arguments import MOST_HOURS, must_be, seconds_above_zero, topic_name, whole_number
from marty_msf.patterns.choreography.consumer import Retries
from marty_msf.patterns.choreography.event import TRACE, Event
from marty_msf.patterns.choreography.handling import ONGOING, EventHandler, HandlerFailed, Ongoing
from marty_msf.patterns.choreography.running import Running
from marty_msf.patterns.database import opened
from marty_msf.patterns.kafka import NOWHERE, connection_of
from marty_msf.patterns.life import Life
from marty_msf.patterns.settings import from_process
from marty_msf.store import inbox, outbox_enqueue
from marty_msf.store.database import translate
from marty_msf.store.inbox import Parked
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
#: Beside one for each partition handled at once: positions, leases, the inbox's upkeep, transactions of the service.
FURTHER_CONNECTIONS: Final = 4
COUNTED: Final = 1000
MOST_CONCURRENCY: Final = 1000
#: Shown, or redriven, at once.
MOST_PARKED: Final = 10_000

HandlerT = TypeVar("HandlerT", bound=EventHandler)


class EventBus:
    """Publishes and handles the events of one service.

    Processes of one service give the same `name`: they share the partitions of the topics. Each service (name) handles
    each event once, whatever is redelivered.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        *,
        reads: Collection[str] | None = None,
        bootstrap_servers: str | None = None,
        kafka_security: Mapping[str, object] | None = None,
        database_url: str | None = None,
        retries: Retries | None = None,
        handler_timeout_seconds: float = 30,
        remember_hours: int = 168,
        concurrency: int = 8,
        data_directory: Path | str | None = None,
    ) -> None:
        """`topic` is what `publish` writes to; `reads` are the topics whose events are handled, by default the same.

        `bootstrap_servers` is by default MARTY_KAFKA_BOOTSTRAP_SERVERS and only needed for handling; `kafka_security`
        holds security_protocol, sasl_mechanism, sasl_plain_username, sasl_plain_password, ssl_cafile, ssl_certfile and
        ssl_keyfile, as create_kafka_message_broker takes them. The database is found as SagaOrchestrator finds it. Handled events are remembered for `remember_hours`: longer than any
        redelivery. `concurrency` bounds the partitions handled at once. Raises InvalidDefinition.
        """
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise InvalidDefinition(
                "name", f"{name!r} is no name", "use letters, digits, '.', '_' and '-', at most 200"
            )
        self._name = name
        self._topic = topic_name("topic", topic)
        if isinstance(reads, str):
            raise InvalidDefinition("reads", f"{reads!r} is one text", f"give the topics as a list, [{reads!r}]")
        self._reads = sorted({topic} if reads is None else {topic_name("reads", name) for name in reads})
        self._bootstrap_servers = bootstrap_servers
        self._kafka_security = dict(kafka_security or {})
        if self._kafka_security or bootstrap_servers is not None:
            # What is wrong with them is told here; the servers may be told later.
            known = "kafka:9092" if bootstrap_servers is None else bootstrap_servers
            connection_of({"bootstrap_servers": known, **self._kafka_security})
        self._database_url = arguments.database_url(database_url)
        self._data_directory = arguments.data_directory(data_directory)
        if retries is not None:
            must_be("retries", retries, Retries, "give Retries(…), or leave it out")
        self._retries = retries or Retries()
        self._timeout_seconds = seconds_above_zero("handler_timeout_seconds", handler_timeout_seconds)
        self._remember_hours = whole_number("remember_hours", remember_hours, MOST_HOURS)
        self._concurrency = whole_number("concurrency", concurrency, MOST_CONCURRENCY)
        self._handlers: dict[str, list[EventHandler]] = {}
        self._board = Board()
        self._life: Life[Running] = Life(f"event bus {self._name!r}")

    @property
    def handler_timeout_seconds(self) -> float:
        """How long the handlers of one event may take."""
        return self._timeout_seconds

    def subscribe(self, event_type: str, handler: EventHandler) -> None:
        """`await handler(event)` for each event of this type; several handlers of a type are one transaction.

        Raises NotRunning after `start`: events that were read by then would be missing.
        """
        if self._life.running:
            raise NotRunning(f"event bus {self._name!r} runs already: subscribe before start()")
        if not (isinstance(event_type, str) and event_type and keepable(event_type)):
            raise InvalidDefinition(
                "event_type", f"{event_type!r} is no type that an event can have", "give the event_type of publish"
            )
        if not callable(handler):
            raise InvalidDefinition(f"handler of {event_type!r}", "cannot be called", "give a coroutine function")
        self._handlers.setdefault(event_type, []).append(handler)

    def handler(self, event_type: str) -> Callable[[HandlerT], HandlerT]:
        """`subscribe` as a decorator."""

        def subscribed(function: HandlerT) -> HandlerT:
            self.subscribe(event_type, function)
            return function

        return subscribed

    async def start(self) -> None:
        """Connect, and handle events until `stop` if anything is subscribed.

        Raises DatabaseUnavailable, SchemaOutdated, DatabaseMissing; Kafka's absence and later losses are waited out.
        """
        async with self._life.starting() as stack:
            servers = self._bootstrap_servers
            if servers is None:
                servers = from_process().kafka_bootstrap_servers
            if self._handlers and not servers:
                raise InvalidDefinition(
                    "bootstrap_servers", "is missing", "give it, or set MARTY_KAFKA_BOOTSTRAP_SERVERS=host:port"
                )
            self._board.clear()
            if self._handlers:
                self._board.report(ProblemReason.STARTING, "the event bus does not read Kafka yet")
            resource = f"{LIBRARY_NAMESPACE}/{self._name}"
            size = self._concurrency + FURTHER_CONNECTIONS
            pool = await stack.enter_async_context(
                opened(self._database_url, self._data_directory, f"marty-events {resource}", size)
            )
            holder = f"{self._name}/{secrets.token_hex(4)}"
            running = Running(
                Context(pool, holder, resource, self._board, new_registry(self._board)),
                self._handlers,
                connection=connection_of({"bootstrap_servers": servers, **self._kafka_security})
                if servers
                else NOWHERE,
                topics=self._reads,
                retries=self._retries,
                timeout_seconds=self._timeout_seconds,
                remember_hours=self._remember_hours,
                concurrency=self._concurrency,
            )
            stack.push_async_callback(running.stop)
            self._life.running = running
            running.start()

    async def stop(self) -> None:
        """Finish the events in work and let go of Kafka and the database. Does nothing when it does not run.

        Waits for a start that is under way, and is done as a whole: who is cancelled meanwhile is told so afterwards. Raises
        NotRunning within a handler, which it would wait for.
        """
        ongoing, running = ONGOING.get(), self._life.running
        if ongoing is not None and running is not None and running.called(ongoing):
            raise NotRunning(
                f"event bus {self._name!r} cannot be stopped by one of its handlers, which it would wait for: have another task do"
                " it, which the handler does not wait for"
            )
        await self._life.stop()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction of the service's database; `publish` within it takes part."""
        pool = self._life.at_work().context.pool
        with translate():
            conn = await pool.acquire()
        try:
            # What the service's own statements raise is its own business.
            async with conn.transaction():
                token = ONGOING.set(Ongoing(conn, None))
                try:
                    yield conn
                finally:
                    ONGOING.reset(token)
        finally:
            await pool.release(conn)

    async def publish(
        self,
        event_type: str,
        payload: Any,
        *,
        aggregate_id: str | None = None,
        aggregate_type: str = "",
        topic: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None:
        """Add an event to the transaction: it is published if and only if that commits.

        The transaction is `connection`'s (asyncpg), else that of the event being handled or of `transaction()`. Events
        with one `aggregate_id` keep their order; within a handler it is by default that of the event handled. `payload`
        is any JSON value. Raises InvalidEvent and NotRunning, both before anything is written.
        """
        ongoing = ONGOING.get()
        conn = connection or (ongoing.connection if ongoing else None)
        if conn is None:
            raise NotRunning(
                f"event {event_type!r} is published outside of a transaction: use `async with bus.transaction()`, "
                "or give the connection whose transaction it belongs to"
            )
        cause = ongoing.event if ongoing and conn is ongoing.connection else None
        key = aggregate_id if aggregate_id is not None else cause.aggregate_id if cause else None
        if not key:
            raise InvalidEvent(f"event {event_type!r} has no aggregate_id: give the id of what it is about")
        own = dict(headers or {})
        # What is none came with the event: the service's own publishing must not fail for it.
        if cause and (trace := parsed(cause.headers.get(TRACE))):
            own.setdefault(TRACE, trace)
        event = outgoing(
            topic=topic or self._topic,
            event_type=event_type,
            payload=encode(payload),
            aggregate_id=key,
            aggregate_type=aggregate_type,
            headers=own,
        )
        await outbox_enqueue.enqueue(conn, event)

    async def parked(self, limit: int = 100) -> list[Parked]:
        """The oldest events whose handler failed for good, and those that wait behind them. Raises InvalidDefinition,
        DatabaseUnavailable.
        """
        whole_number("limit", limit, MOST_PARKED)
        running = self._life.at_work()
        with translate():
            async with running.context.pool.acquire() as conn:
                return await inbox.parked(conn, running.consumer, limit)

    async def redrive(self, aggregate_id: str | None = None, *, limit: int = 100) -> int:
        """Handle parked events again, of one aggregate or of up to `limit`; returns how many were handled.

        Each aggregate's events go in their order, up to the first that fails again. Raises InvalidDefinition,
        DatabaseUnavailable.
        """
        whole_number("limit", limit, MOST_PARKED)
        key = None if aggregate_id is None else _shown("aggregate_id", aggregate_id, "key").encode()
        running = self._life.at_work()
        with translate():
            async with running.context.pool.acquire() as conn:
                heads = await inbox.heads(conn, running.consumer, key, limit)
        handled = 0
        for number, head in heads:
            try:
                while await running.redrive_first(number, head):
                    handled += 1
            except HandlerFailed:
                # Told by its row; the other aggregates go on.
                continue
        return handled

    async def discard(self, event_id: str) -> int:
        """Give a parked event up: it counts as handled, and what waits behind it can be redriven. Returns 0 or 1."""
        _shown("event_id", event_id, "event_id")
        running = self._life.at_work()
        with translate():
            async with running.context.pool.acquire() as conn:
                return await inbox.discard(conn, running.consumer, event_id)

    async def forget(self, event: Event) -> None:
        """Within the handling of an event: do not record it as handled, so that its next delivery is handled as well."""
        source, event_id = event_identity.of_event(event.source, event.id)
        with translate():
            await inbox.forget(event.connection, self._life.at_work().consumer, source, event_id)

    async def health_check(self) -> dict[str, Any]:
        """`status` is healthy, degraded (something waits for a person) or unhealthy; `problems` says why."""
        if self._life.running is None:
            return {"status": "unhealthy", "problems": ["the event bus is not started"]}
        problems, parked = [problem.message for problem in self._board.current()], None
        blocked = self._board.blocked
        if (error := self._life.running.ended_by) is not None:
            problems, blocked = (
                [f"a handler ended all handling by {type(error).__name__}: stop() and start() again"],
                True,
            )
        try:
            with translate():
                async with self._life.running.context.pool.acquire() as conn:
                    parked = await inbox.count_parked(conn, self._life.running.consumer, COUNTED)
        except MartyError as error:
            problems, blocked = [str(error), *problems], True
        if parked:
            problems.append(_waiting_for_a_person(parked))
        status = "unhealthy" if blocked else "degraded" if problems or parked else "healthy"
        return {"status": status, "problems": problems, "parked_events": parked}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def _waiting_for_a_person(parked: int) -> str:
    """`parked` events, or more of them."""
    number = f"{parked}{' or more' if parked >= COUNTED else ''} event{'' if parked == 1 else 's'}"
    return f"{number} parked, because a handler failed for good: see parked(), then redrive() or discard()"


def _shown(path: str, value: object, member: str) -> str:
    """What `parked` shows as this member of an event."""
    if isinstance(value, str) and keepable(value):
        return value
    raise InvalidDefinition(
        path, f"{value!r} is no text, or none that can be kept", f"give the {member} that parked() shows, as text"
    )
