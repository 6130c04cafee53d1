"""What a batch of Kafka records means: which events are new, what they change, and where one stops its partition."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from marty_msf.core.cloudevents import SEQUENCE, envelope
from marty_msf.core.errors import PoisonEvent
from marty_msf.core.projection.mapping import Change, Mapper

Partition = tuple[str, int]
#: Topic, partition and ce_source: within one stream a key's sequence only rises.
Stream = tuple[str, int, bytes]

TYPE: Final = "ce_type"
SOURCE: Final = "ce_source"
#: Of a bigint; what is longer was not made by our outbox.
_DIGITS: Final = 18
#: Keys and sources are remembered in indexes of Postgres, whose rows end at 2,704 bytes. Our outbox makes neither longer.
KEY_BYTES: Final = 1024
SOURCE_BYTES: Final = 1024
#: In place of a sequence: the event has one, but its key or source cannot be remembered.
_UNKEEPABLE: Final = -1

_ID_SHOWN: Final = 80
_REMEDY_MAPPING: Final = "correct spec.events or spec.readModel.columns, it goes on from here"
_REMEDY_PRODUCER: Final = f"correct its producer, or let it send no {SEQUENCE}, and publish to a new topic"


class Message(Protocol):
    """The part of a Kafka record that is read here."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Mapping[str, bytes]: ...


MessageT = TypeVar("MessageT", bound=Message)


@dataclass(slots=True)
class Count:
    """Events passed in one partition."""

    processed: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """The partition must stop before `offset`."""

    offset: int
    error: PoisonEvent


@dataclass(frozen=True, slots=True)
class Taken:
    """What to store for a batch."""

    changes: Sequence[Change] = ()
    #: The sequences that rose, by stream and key.
    sequences: Mapping[Stream, Mapping[bytes, int]] = field(default_factory=dict)
    counts: Mapping[Partition, Count] = field(default_factory=dict)
    stops: Mapping[Partition, Stop] = field(default_factory=dict)


def sequenced(records: Iterable[MessageT]) -> list[tuple[MessageT, Stream | None, int]]:
    """Each record with its stream and sequence; no stream when its producer gives no sequence (it is no relay of ours)
    or when key or source are too long to be remembered, which `take` refuses."""
    stream: Stream = ("", -1, b"")
    result: list[tuple[MessageT, Stream | None, int]] = []
    for record in records:
        headers = record.headers
        number = headers.get(SEQUENCE)
        if number is None or not number.isdigit() or len(number) > _DIGITS:
            result.append((record, None, 0))
            continue
        source = headers.get(SOURCE) or b""
        if len(record.key or b"") > KEY_BYTES or len(source) > SOURCE_BYTES:
            result.append((record, None, _UNKEEPABLE))
            continue
        if stream[2] != source or stream[1] != record.partition or stream[0] != record.topic:
            stream = (record.topic, record.partition, source)
        result.append((record, stream, int(number)))
    return result


class Intake:
    """Sorts out the duplicates of a batch and maps the rest; the batch may be added in parts.

    `known` holds the highest sequence applied for every key among the records. A relay that crashed sends its last
    window again: those events come with sequences that were applied already, at any distance.
    """

    def __init__(self, mapper: Mapper, known: Mapping[Stream, Mapping[bytes, int]]) -> None:
        self._mapper = mapper
        self._known = known
        self._changes: list[Change] = []
        self._risen: dict[Stream, dict[bytes, int]] = {}
        self._counts: dict[Partition, Count] = {}
        self._stops: dict[Partition, Stop] = {}

    @property
    def taken(self) -> Taken:
        """What all records added so far mean."""
        return Taken(self._changes, self._risen, self._counts, self._stops)

    def add(self, records: Iterable[tuple[Message, Stream | None, int]]) -> None:
        """Take the next records, in the order of their partitions."""
        # Records come in runs of one partition and one stream; what a run shares is looked up once.
        partition: Partition = ("", -1)
        count, stopped = Count(), False
        run: Stream | None = None
        news: dict[bytes, int] = {}
        before: Mapping[bytes, int] = {}
        for record, stream, sequence in records:
            if record.partition != partition[1] or record.topic != partition[0]:
                partition = (record.topic, record.partition)
                count, stopped = self._counts.setdefault(partition, Count()), partition in self._stops
            if stopped:
                continue
            if sequence == _UNKEEPABLE:
                self._stops[partition] = Stop(record.offset, _unkeepable(record))
                stopped = True
                continue
            key = record.key or b""
            if stream is not None:
                if stream is not run:
                    run, news, before = stream, self._risen.setdefault(stream, {}), self._known[stream]
                highest = news.get(key)
                if sequence <= (before[key] if highest is None else highest):
                    count.duplicates += 1
                    continue
            elif sequence == _UNKEEPABLE:
                self._stops[partition] = Stop(record.offset, poison(record, _too_long(record), _REMEDY_PRODUCER))
                stopped = True
                continue
            try:
                change = self._mapper.change(record.headers.get(TYPE), record.value)
            except PoisonEvent as error:
                self._stops[partition] = Stop(record.offset, poison(record, str(error)))
                stopped = True
                continue
            if stream is not None:
                news[key] = sequence
            if change is not None:
                self._changes.append(change)
            count.processed += 1


def take(
    records: Iterable[tuple[Message, Stream | None, int]],
    mapper: Mapper,
    known: Mapping[Stream, Mapping[bytes, int]],
) -> Taken:
    """A whole batch at once."""
    intake = Intake(mapper, known)
    intake.add(records)
    return intake.taken


def _too_long(record: Message) -> str:
    return (
        f"a key of {len(record.key or b'')} bytes and a {SOURCE} of {len(record.headers.get(SOURCE) or b'')} bytes, where"
        f" an event with {SEQUENCE} may have {KEY_BYTES} and {SOURCE_BYTES}"
    )


def _unkeepable(record: Message) -> PoisonEvent:
    """The error of an event whose sequence cannot be remembered."""
    key, source = len(record.key or b""), len(record.headers.get(SOURCE) or b"")
    problem = f"its key has {key} bytes and its {SOURCE} {source}, they may have {KEY_BYTES} and {SOURCE_BYTES}"
    return poison(record, problem, _REMEDY_PRODUCER)


def poison(record: Message, problem: str, remedy: str = _REMEDY_MAPPING) -> PoisonEvent:
    """The problem with the event's place and the remedy."""
    event_id = envelope(record.headers).id[:_ID_SHOWN] or "without ce_id"
    return PoisonEvent(
        f"Kafka topic {record.topic!r} partition {record.partition} offset {record.offset}, event {event_id}: {problem}."
        f" The partition waits before this event: {remedy}"
    )
