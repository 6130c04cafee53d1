"""Adding events to the outbox in the application's own transaction, on the connection that it works with."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from inspect import signature
from typing import Any, Final
from uuid import UUID

from marty_msf.core.errors import InvalidEvent, OutsideTransaction
from marty_msf.core.outgoing import EventPriority, Outgoing, encoded_headers, outgoing
from marty_msf.core.outgoing import traceparent as checked_traceparent
from marty_msf.core.trace import TRACEPARENT
from marty_msf.patterns.arguments import must_be
from marty_msf.patterns.outbox.config import OutboxConfig
from marty_msf.store import outbox_enqueue
from marty_msf.store.session import Session, session_of
from marty_msf.worker.saga.tracing import of_event


class EnhancedOutboxRepository:
    """Enqueues events: they are published if and only if the transaction that they were enqueued in commits.

    `session` is an asyncpg connection, a psycopg AsyncConnection, or an AsyncSession or AsyncConnection of SQLAlchemy over
    one of the two. Nothing here commits. Made anew for each session or connection; that costs nothing.
    """

    def __init__(self, session: Any, config: OutboxConfig | None = None) -> None:
        """`config` is what the processor of the same process is given too; enqueueing needs none of it.

        Raises InvalidDefinition for what is no such session, or no such config.
        """
        self._session = session_of(session)
        if config is not None:
            must_be("config", config, OutboxConfig, "give an OutboxConfig, or leave it out")
        self.config = config or OutboxConfig()

    @property
    def session(self) -> Session:
        """How statements are run on what the application gave."""
        return self._session

    async def enqueue_event(
        self,
        topic: str | Mapping[str, Any],
        event_type: str = "",
        payload: Any = None,
        aggregate_id: str | UUID | int | None = None,
        aggregate_type: str = "",
        priority: EventPriority | str = EventPriority.NORMAL,
        max_delivery_attempts: int | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        deliver_after: datetime | None = None,
        traceparent: str | None = None,
    ) -> int:
        """Add an event to the caller's transaction; returns its number in the outbox.

        `payload` is a mapping (or any other JSON value but text) that becomes JSON, or bytes that are sent as they are:
        say what they are with the header `content-type`. Events of one `aggregate_id` are published in the order in which
        they were enqueued, whatever their priority, if each transaction changes or locks the aggregate's row first; without
        one an event has no order. `key` is Kafka's, by default the aggregate id. `deliver_after` needs a time zone, is in
        the years 2 to 9998, and holds the later events of its aggregate too. `traceparent` (W3C) is by default, where
        OpenTelemetry is set up, of what goes on here. One mapping with these names may be given in place of all arguments.

        Raises InvalidEvent (PayloadTooLarge) and OutsideTransaction before the database is asked: the transaction goes on;
        and SchemaOutdated when the database says so (then run `marty migrate`).
        """
        further = {
            "event_type": event_type,
            "payload": payload,
            "aggregate_id": aggregate_id,
            "aggregate_type": aggregate_type,
            "priority": priority,
            "max_delivery_attempts": max_delivery_attempts,
            "headers": headers,
            "key": key,
            "deliver_after": deliver_after,
            "traceparent": traceparent,
        }
        if not isinstance(topic, Mapping):
            event = _event("", topic=topic, **further)
        elif beside := [name for name, value in further.items() if value is not _DEFAULTS[name]]:
            raise InvalidEvent(
                f"{beside[0]}: is given beside a mapping, which has all of the event: put it into the mapping"
            )
        else:
            event = _checked(topic, "")
        self._refuse_dead_letter_topic(event, "")
        await self._session.join()
        return await outbox_enqueue.enqueue(self._session, event)

    async def enqueue_events(self, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add events, as mappings with the names of `enqueue_event`'s arguments, in their order and in one round trip.

        All or none; returns their numbers. Raises as `enqueue_event` does, with the place of the event in the path.
        """
        if isinstance(events, Mapping | str | bytes) or not isinstance(events, Iterable):
            raise InvalidEvent(f"events: a {type(events).__name__} is no sequence of events: give a list of mappings")
        checked = [_checked(event, f"events[{place}]") for place, event in enumerate(events)]
        for place, event in enumerate(checked):
            self._refuse_dead_letter_topic(event, f"events[{place}].")
        await self._session.join()
        return await outbox_enqueue.enqueue_many(self._session, checked)

    async def wake(self) -> None:
        """Tell a waiting relay to look now; after the commit, because transactions that notify commit one after the other.

        A hint: without it the relay looks within its polling interval. Raises OutsideTransaction within a transaction.
        """
        if self._session.in_transaction():
            raise OutsideTransaction(
                "wake() was called inside of a transaction, where it would make all writers commit one after the other: "
                "call it after the commit"
            )
        async with self._session.block():
            await outbox_enqueue.wake(self._session)

    def _refuse_dead_letter_topic(self, event: Outgoing, at: str) -> None:
        if event.topic == self.config.dead_letter_topic:
            raise InvalidEvent(
                f"{at}topic: {event.topic!r} is the dead_letter_topic of the configuration, where readers expect what "
                "could not be published: use another topic for one of the two"
            )


def _event(at: str, *, traceparent: str | None = None, **given: Any) -> Outgoing:
    event = outgoing(at=at, **given)
    if not (traceparent is None or isinstance(traceparent, str)):
        raise InvalidEvent(
            f"{at}traceparent: a {type(traceparent).__name__} is no text: give a W3C traceparent, or leave it out"
        )
    parent = None if traceparent is None else checked_traceparent(traceparent, f"{at}traceparent")
    if trace := of_event(event.topic, parent):
        headers = {**(given.get("headers") or {}), TRACEPARENT: trace}
        event = event._replace(headers=encoded_headers(headers, f"{at}headers"))
    return event


_DEFAULTS: Final = {
    name: it.default
    for name, it in signature(EnhancedOutboxRepository.enqueue_event).parameters.items()
    if name != "self"
}
#: Of an event that is given as a mapping.
_NAMES: Final = frozenset(_DEFAULTS)
_NEEDED: Final = ("topic", "event_type", "payload")


def _checked(event: object, at: str) -> Outgoing:
    where = at or "event"
    if not isinstance(event, Mapping):
        raise InvalidEvent(f"{where}: a {type(event).__name__} is no event: give a mapping with {', '.join(_NEEDED)} …")
    if unknown := [name for name in event if name not in _NAMES]:
        raise InvalidEvent(f"{where}: {unknown[0]!r} is unknown: use {', '.join(sorted(_NAMES))}")
    if missing := [name for name in _NEEDED if name not in event]:
        raise InvalidEvent(f"{where}: {missing[0]} is missing: give it")
    return _event(f"{at}." if at else "", **event)
