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
    """Each record with its stream and sequence; None when its producer gives none (it is no relay of ours)."""
    stream: Stream = ("", -1, b"")
    result: list[tuple[MessageT, Stream | None, int]] = []
    for record in records:
        headers = record.headers
        number = headers.get(SEQUENCE)
        if number is None or not number.isdigit() or len(number) > _DIGITS:
            result.append((record, None, 0))
            continue
        source = headers.get(SOURCE, b"")
        if stream[2] != source or stream[1] != record.partition or stream[0] != record.topic:
            stream = (record.topic, record.partition, source)
        result.append((record, stream, int(number)))
    return result


def take(
    records: Iterable[tuple[Message, Stream | None, int]],
    mapper: Mapper,
    known: Mapping[Stream, Mapping[bytes, int]],
) -> Taken:
    """Sort out duplicates and map the rest.

    `known` holds the highest sequence applied for every key among the records. A relay that crashed sends its last
    window again: those events come with sequences that were applied already, at any distance.
    """
    changes: list[Change] = []
    risen: dict[Stream, dict[bytes, int]] = {}
    counts: dict[Partition, Count] = {}
    stops: dict[Partition, Stop] = {}
    # Records come in runs of one partition and one stream; what a run shares is looked up once.
    partition: Partition = ("", -1)
    count, stopped = Count(), False
    run: Stream | None = None
    news: dict[bytes, int] = {}
    before: Mapping[bytes, int] = {}
    for record, stream, sequence in records:
        if record.partition != partition[1] or record.topic != partition[0]:
            partition = (record.topic, record.partition)
            count, stopped = counts.setdefault(partition, Count()), partition in stops
        if stopped:
            continue
        key = record.key or b""
        if stream is not None:
            if stream is not run:
                run, news, before = stream, risen.setdefault(stream, {}), known[stream]
            highest = news.get(key)
            if sequence <= (before[key] if highest is None else highest):
                count.duplicates += 1
                continue
        try:
            change = mapper.change(record.headers.get(TYPE), record.value)
        except PoisonEvent as error:
            stops[partition] = Stop(record.offset, poison(record, str(error)))
            stopped = True
            continue
        if stream is not None:
            news[key] = sequence
        if change is not None:
            changes.append(change)
        count.processed += 1
    return Taken(changes, risen, counts, stops)


def poison(record: Message, problem: str) -> PoisonEvent:
    """The problem with the event's place and the remedy."""
    event_id = envelope(record.headers).id or "without ce_id"
    return PoisonEvent(
        f"Kafka topic {record.topic!r} partition {record.partition} offset {record.offset}, event {event_id}: {problem}."
        " The partition waits before this event: correct spec.events or spec.readModel.columns, it goes on from here"
    )
