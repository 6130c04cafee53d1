"""How a batch gets to Kafka: by one idempotent session for all lanes, unless a publisher of another kind is given."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

from marty_msf.core.errors import BrokerUnavailable, PoisonBatch, PoisonEvent, TopicUnavailable
from marty_msf.store.outbox_held import Refusal
from marty_msf.worker.broker.producer import Producer
from marty_msf.worker.broker.sending import Sent
from marty_msf.worker.relay.batch import ID, Encoder, Row, own_limit
from marty_msf.worker.relay.flight import Flight, Settled
from marty_msf.worker.relay.rules import Rules
from marty_msf.worker.relay.shared import Shared

#: After a refusal, the wait for the acknowledgements of what was on its way; longer than the producer itself waits.
SALVAGE_SECONDS: Final = 12


class Publisher(Protocol):
    """What the pipeline needs: batches go out in the order in which they are given."""

    #: Whether a batch is acknowledged only after the write to the database behind the one before.
    waits_for_writes: bool

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]:
        """Partitions of each topic; 0 for one that is missing or forbidden to us."""
        ...

    async def send(self, flight: Flight) -> Sequence[Sent]:
        """Hand over a batch's rows."""
        ...

    async def acknowledged(self, sent: Sequence[Sent]) -> None:
        """Wait until Kafka has them for good. Raises what ends the session (see KafkaProducer.acknowledged)."""
        ...

    async def salvage(self, flights: Sequence[Flight]) -> Sequence[tuple[Flight, Settled]]:
        """After a refusal: what of them was acknowledged, up to the first event of each lane that was not."""
        ...

    def stored(self, flights: Collection[Flight]) -> None:
        """The write to the database behind these is done."""
        ...

    def forget(self) -> None:
        """Whatever was sent and not settled is sent again."""
        ...

    def restart(self, producer: Producer) -> None:
        """The session is over: go on with a new one."""
        ...


def parts(
    encoder: Encoder, rows: Sequence[Row], partitions: Mapping[str, int], sent: Sequence[Sent]
) -> Iterator[tuple[Sent, Sequence[Row]]]:
    """The rows in each record batch of what `encoder` made of them."""
    placed = {tp: iter(part) for tp, part in encoder.placed(rows, partitions).items()}
    for batch in sent:
        # One that was not sent has no records.
        yield batch, list(islice(placed[batch.topic, batch.partition], batch.records))


class SessionPublisher:
    """One producer session for all lanes."""

    waits_for_writes = False

    def __init__(self, producer: Producer, rules: Rules, shared: Shared) -> None:
        self._producer = producer
        self._rules = rules
        self._shared = shared
        self._encoder = Encoder(shared.database)

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]:
        """See Publisher."""
        return await self._producer.partitions(topics)

    async def send(self, flight: Flight) -> Sequence[Sent]:
        """See Publisher."""
        messages = self._encoder.encode(flight.rows, flight.partitions)
        return await self._producer.send(messages) if messages else ()

    async def acknowledged(self, sent: Sequence[Sent]) -> None:
        """See Publisher."""
        await self._producer.acknowledged(sent)

    async def salvage(self, flights: Sequence[Flight]) -> Sequence[tuple[Flight, Settled]]:
        """A refused event is not lost: the position passes it, and it is held."""
        if waiting := [sent.acknowledged for flight in flights for sent in flight.sent or ()]:
            await asyncio.wait(waiting, timeout=SALVAGE_SECONDS)
        lost: set[int] = set()
        stopped: set[int] = set()
        done: list[tuple[Flight, Settled]] = []
        for flight in flights:
            refused = await self._fates(flight, lost)
            settled = flight.settled(lost, refused)
            done.append((flight, settled.without(stopped)))
            stopped |= settled.stopped
        return done

    def stored(self, flights: Collection[Flight]) -> None:
        """See Publisher. Kafka waits for nothing."""

    def forget(self) -> None:
        """See Publisher. What was sent is on its way."""

    def restart(self, producer: Producer) -> None:
        """See Publisher."""
        self._producer = producer

    async def _fates(self, flight: Flight, lost: set[int]) -> Mapping[int, Refusal]:
        """Which of its events were refused; those whose fate is open, or that were not sent, are added to `lost`."""
        unknown = {row[ID] for row in flight.rows}
        refused: dict[int, Refusal] = {}
        for sent, part in parts(self._encoder, flight.rows, flight.partitions, flight.sent or ()):
            if not sent.acknowledged.done():
                continue
            try:
                await self._producer.acknowledged([sent])
            except PoisonEvent as error:
                refused[part[0][ID]] = self._rules.refusal(part[0], 1, error, own_limit(part[0]))
                unknown.discard(part[0][ID])
            except PoisonBatch:
                # Which of them it is shows when they are tried one by one.
                self._shared.suspect.update(row[ID] for row in part)
            except TopicUnavailable as error:
                self._shared.miss(sent.topic, self._rules.unusable_seconds(error))
            except BrokerUnavailable:
                continue
            else:
                unknown.difference_update(row[ID] for row in part)
        lost |= unknown
        return refused
