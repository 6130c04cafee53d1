"""Any Python consumer effectively-once: an event's identity is recorded in the transaction of its effects."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from marty_msf.core import event_identity
from marty_msf.core.errors import InvalidDefinition, InvalidEvent, TransactionFailed
from marty_msf.core.event_identity import Identity
from marty_msf.patterns.arguments import MOST_HOURS, whole_number
from marty_msf.patterns.choreography.event import Event
from marty_msf.store import inbox
from marty_msf.store.session import check, session_of

#: At once, in one statement.
MOST_FORGOTTEN: Final = 10_000_000
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class Inbox:
    """What one consumer has handled, shared by its processes, for `remember_hours`: longer than any redelivery.

    Needs the schema `marty` in the consumer's own database, whatever reads Kafka. An EventBus keeps the same table, so its
    handlers need no Inbox. Neither does a Projection: its rows and its position in Kafka are one transaction, and it skips
    what is not newer by `ce_martysequence`, so an entry per event would tell it nothing that it does not know.
    """

    def __init__(self, consumer: str, *, remember_hours: int = 168) -> None:
        """`consumer` names the service: another name handles the same events once more. Raises InvalidDefinition."""
        if not (isinstance(consumer, str) and NAME.fullmatch(consumer)):
            problem = f"{consumer!r} is no name"
            raise InvalidDefinition("consumer", problem, "use letters, digits, '.', '_' and '-', at most 200")
        self._consumer = f"inbox:{consumer}"
        self._remember_hours = whole_number("remember_hours", remember_hours, MOST_HOURS)

    @asynccontextmanager
    async def once(self, connection: Any, event: Any) -> AsyncIterator[bool]:
        """Around an event's effects: True when they are to be made, False when they were made before.

        `connection` is what EnhancedOutboxRepository takes. Works in its transaction as a savepoint, or in one of its own;
        when the block raises, the entry is rolled back with the effects and the event may come again. Whoever handles the
        same event meanwhile waits for the end of that transaction. `event` is a Kafka message of aiokafka or
        confluent-kafka, its headers (mapping or pairs), or an Event. Raises InvalidEvent when it does not say who it is, and
        SchemaOutdated (then run `marty migrate`).

        A statement that failed ends the transaction's effects, also when the block swallowed its error: raises
        TransactionFailed then. Put what may fail into a savepoint of its own.

        Effects outside of the transaction may happen again after a crash. Store Kafka's offset after the commit.
        """
        source, event_id = identity_of(event)
        session = session_of(connection)
        own = not session.in_transaction()
        async with session.block():
            await session.join()
            yield (await inbox.record(session, self._consumer, source, event_id, None)).fresh
            if own:
                if not session.in_transaction():
                    raise TransactionFailed(
                        f"the block ended the transaction that the entry of event {event_id} belongs to: leave COMMIT and"
                        " ROLLBACK out, and raise to roll back"
                    )
                # The server answers COMMIT of a failed transaction with a rollback, and calls that no error.
                await check(session)

    async def prune(self, connection: Any, limit: int = 1000) -> int:
        """Forget up to `limit` events that were handled longer ago; returns how many. Call it now and then."""
        whole_number("limit", limit, MOST_FORGOTTEN)
        session = session_of(connection)
        async with session.block():
            return await inbox.prune(session, self._consumer, self._remember_hours, limit)


def identity_of(event: Any) -> Identity:
    """By what a message is known: its `ce_source` and `ce_id`, else its place in Kafka. Raises InvalidEvent."""
    if isinstance(event, Event):
        return event_identity.of_event(event.source, event.id)
    headers = event if isinstance(event, Mapping | list | tuple | str | bytes) else _value(event, "headers")
    texts = None
    # Text is a sequence too, and its methods bear names that messages have.
    if not isinstance(headers, str | bytes):
        with suppress(TypeError, ValueError):
            texts = _texts(headers)
    if texts is None:
        raise InvalidEvent(
            f"headers: a {type(headers).__name__} is no mapping and no pairs: give the Kafka message itself, or its headers"
        )
    found = event_identity.of_headers(texts) or _place(event)
    if found is None:
        missing = "ce_source" if texts.get("ce_id") else "ce_id"
        raise InvalidEvent(
            f"headers.{missing}: is missing, so nobody can tell the event from others: "
            "give the Kafka message itself, whose place identifies it, or have its producer set ce_id and ce_source"
        )
    return found


def _texts(headers: object) -> dict[str, str]:
    pairs: Iterable[tuple[Any, Any]] = headers.items() if isinstance(headers, Mapping) else headers or ()  # type: ignore[assignment]
    found = {}
    for name, value in pairs:
        name = name.decode(errors="replace") if isinstance(name, bytes) else name
        if name in event_identity.HEADERS and value:
            if isinstance(value, bytes | bytearray | memoryview):
                found[name] = event_identity.exact(bytes(value))
            else:
                found[name] = str(value)
    return found


def _place(event: object) -> Identity | None:
    """Of messages of aiokafka, whose attributes are values, and of confluent-kafka, whose are methods."""
    topic, partition, offset = (_value(event, name) for name in ("topic", "partition", "offset"))
    timestamp = _value(event, "timestamp")
    moment = timestamp[1] if isinstance(timestamp, tuple) else timestamp
    if isinstance(topic, str) and isinstance(partition, int) and isinstance(offset, int):
        return event_identity.of_place(topic, partition, offset, moment if isinstance(moment, int) else -1)
    return None


def _value(event: object, name: str) -> Any:
    value = getattr(event, name, None)
    return value() if callable(value) else value
