"""The relay's lanes where each has Kafka transactions of its own (`spec.kafka.producer.transactional`)."""

from collections.abc import Mapping, Sequence

from marty_msf.worker.relay.lane_sessions import LaneSessions
from marty_msf.worker.relay.pipeline import Relay


class TransactionalLanes:
    """A LaneUser: a lane's id is fenced before the relay reads anything of it."""

    def __init__(self, relay: Relay, sessions: LaneSessions) -> None:
        self._relay = relay
        self._sessions = sessions

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """See LaneUser. Raises BrokerUnavailable."""
        await self._sessions.gained(epochs)
        await self._relay.gained(epochs)

    async def drain(self, lanes: Sequence[int]) -> None:
        """See LaneUser."""
        await self._relay.drain(lanes)
        self._sessions.dropped(lanes)

    def dropped(self, lanes: Sequence[int]) -> None:
        """See LaneUser."""
        self._relay.dropped(lanes)
        self._sessions.dropped(lanes)
