"""An event as a service receives it: read from a Kafka message or from a parked row, identified once and for all. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from asyncpg import Connection

from marty_msf.core import event_identity
from marty_msf.core.cloudevents import CONTENT_TYPE, Envelope, envelope
from marty_msf.core.errors import PoisonEvent
from marty_msf.store.inbox import Parked
from marty_msf.worker.kafka_input import Record

TRACE: Final = "traceparent"
_JSON: Final = ("application/json", "text/json")


@dataclass(frozen=True, slots=True)
class Event:
    """What a handler gets."""

    id: str
    type: str
    source: str
    #: Events of one aggregate come in the order in which they were published.
    aggregate_id: str
    #: When it happened: RFC 3339, or empty.
    time: str
    #: Position in its aggregate's order; None from producers that are no relay of ours.
    sequence: int | None
    headers: Mapping[str, str]
    #: The JSON payload; None when the content type says that it is no JSON.
    data: Any
    #: The payload as it was sent.
    payload: bytes
    #: The transaction that records the event as handled: what is written with it happens once.
    connection: Connection


@dataclass(frozen=True, slots=True)
class Received:
    """A message before it is handled."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str]
    #: What the event is known by in marty.inbox.
    source: str
    event_id: str

    @classmethod
    def of_record(cls, record: Record) -> "Received":
        """A Kafka message. Without `ce_id` or `ce_source` its place in Kafka identifies it, which no producer repeats."""
        headers = {
            name: event_identity.exact(value) if name in event_identity.HEADERS else event_identity.text(value)
            for name, value in record.headers.items()
            if value
        }
        source, event_id = event_identity.of_headers(headers) or event_identity.of_place(
            record.topic, record.partition, record.offset, record.timestamp_ms
        )
        return cls(
            record.topic,
            record.partition,
            record.offset,
            record.key,
            record.value,
            headers,
            source,
            event_id,
        )

    @classmethod
    def of_parked(cls, parked: Parked) -> "Received":
        """A parked event, to be handled again."""
        return cls(
            parked.topic,
            parked.partition,
            parked.offset,
            parked.key,
            parked.value,
            parked.headers,
            parked.source,
            parked.event_id,
        )

    @property
    def type(self) -> str:
        return self.headers.get("ce_type", "")

    def event(self, connection: Connection) -> Event:
        """For a handler. Raises PoisonEvent when the payload is not the JSON it is said to be."""
        attributes: Envelope = envelope({name: value.encode() for name, value in self.headers.items()})
        payload = self.value or b""
        kind = self.headers.get(CONTENT_TYPE, _JSON[0]).partition(";")[0].strip().lower()
        data = None
        if kind in _JSON or kind.endswith("+json"):
            try:
                data = orjson.loads(payload) if payload else None
            except orjson.JSONDecodeError as error:
                raise PoisonEvent(
                    f"its payload is no JSON ({error}): correct its producer, or its content-type"
                ) from None
        key = self.key.decode(errors="replace") if self.key is not None else attributes.subject
        return Event(
            id=attributes.id or self.event_id,
            type=attributes.type,
            # Its place is an id within a partition only, whatever source it names.
            source=(attributes.source if attributes.id else "") or self.source,
            aggregate_id=key,
            time=attributes.time,
            sequence=attributes.sequence,
            headers=self.headers,
            data=data,
            payload=payload,
            connection=connection,
        )

    def parked(self, attempts: int, error: str) -> Parked:
        """The row that keeps it."""
        return Parked(
            self.source,
            self.event_id,
            self.topic,
            self.partition,
            self.offset,
            self.key,
            self.headers,
            self.value,
            attempts,
            error,
        )
