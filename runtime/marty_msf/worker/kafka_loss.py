"""When a stored position says nothing about what Kafka has now, why, and what a person can do. Pure: no I/O."""

from dataclasses import dataclass
from uuid import UUID

from marty_msf.core.errors import PositionLost
from marty_msf.store.positions import Stored
from marty_msf.worker.broker.consumer import Partition


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing is read from a partition whose stored position is lost."""

    offset: int
    #: The id in the position's row.
    topic_id: UUID | None
    #: The topic has another id now; else it is the same one, and the offset is gone.
    anew: bool
    error: PositionLost

    def mended(self, stored: Stored | None, now: UUID | None) -> bool:
        """Whether a person has changed the row, or the topic has become another one: the position is looked up again."""
        if stored is None or stored.topic_id != self.topic_id:
            return True
        anew = made_anew(stored.topic_id, now)
        return anew != self.anew or (not anew and stored.next_offset != self.offset)


def made_anew(stored: UUID | None, now: UUID | None) -> bool:
    """Whether the topic is not the one that the position belongs to. An id that is unknown accuses nobody."""
    return stored is not None and now is not None and stored != now


def judge(scope: str, partition: Partition, stored: Stored, now: UUID | None, earliest: int, head: int) -> Lost | None:
    """Why the position cannot be read from; None when it can. `now` is the topic's id, asked after the offsets."""
    if stored.topic_id is not None and made_anew(stored.topic_id, now):
        return lost_topic(scope, partition, stored.next_offset, stored.topic_id)
    if not earliest <= stored.next_offset <= head:
        return lost_offset(scope, partition, stored.next_offset, stored.topic_id, earliest, head)
    return None


def lost_topic(scope: str, partition: Partition, offset: int, topic_id: UUID) -> Lost:
    """The topic was deleted and made anew. The same text for all partitions of the topic: one statement mends all."""
    topic, _ = partition
    remedy = _update("next_offset = 0, topic_id = NULL", scope, topic, f"topic_id = '{topic_id}'")
    error = PositionLost(
        f"Kafka topic {topic!r}: the topic was made anew; the stored positions belong to the former one, whose id was"
        f" {topic_id}. Events of the former one that were not read are gone, and none of the new one is read until you"
        f" accept that. To read the new one from its start: {remedy}"
    )
    return Lost(offset, topic_id, anew=True, error=error)


def lost_offset(scope: str, partition: Partition, offset: int, topic_id: UUID | None, earliest: int, head: int) -> Lost:
    """Kafka has the topic, but not the offset."""
    topic, number = partition
    if offset < earliest:
        cause = "retention removed the events between"
    else:
        cause = "the topic was made anew" if topic_id is None else "Kafka lost the newest events of the topic"
    remedy = _update(f"next_offset = {earliest}", scope, topic, f"partition = {number}")
    error = PositionLost(
        f"Kafka topic {topic!r} partition {number}: the stored offset {offset} is outside of {earliest}..{head},"
        f" what Kafka has ({cause}): restore the events, or accept the gap: {remedy}"
    )
    return Lost(offset, topic_id, anew=False, error=error)


def _update(change: str, scope: str, topic: str, rows: str) -> str:
    where = f"scope = '{scope}' AND topic = '{topic}' AND {rows}"
    return f"UPDATE marty.kafka_position SET {change} WHERE {where}"  # noqa: S608  # shown to a person, never run here
