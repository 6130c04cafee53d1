"""Relays with a Kafka transaction per lane, driven by hand as the role does it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from marty_msf.core.lanes import LANES
from marty_msf.store import leases, outbox, outbox_position
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import DEFAULT_TUNING, Tuning
from marty_msf.worker.relay.adopting import Who
from marty_msf.worker.relay.held_sender import HeldSender
from marty_msf.worker.relay.lane_publisher import LanePublisher
from marty_msf.worker.relay.lane_sessions import LaneSessions
from marty_msf.worker.relay.pipeline import Relay
from marty_msf.worker.relay.shared import Shared
from marty_msf.worker.relay.transactions import TransactionalLanes
from tests.integration.relay.setup import RESOURCE, drain, held_sender, make_rules, pool_and_producer

TRANSACTIONAL = {"producer": {"transactional": True}}


def transactional_kafka(bootstrap: str) -> Mapping[str, Any]:
    """For a spec."""
    return {"bootstrapServers": bootstrap, **TRANSACTIONAL}


@dataclass(slots=True)
class Parts:
    """What a role is made of."""

    pool: Any
    producer: KafkaProducer
    relay: Relay
    sessions: LaneSessions
    lanes: TransactionalLanes
    sender: HeldSender
    holder: str
    database: str
    resource: str

    @property
    def scope(self) -> str:
        return f"relay:{self.resource}"

    async def take_lanes(self, *, ttl_seconds: float = 60) -> Mapping[int, int]:
        """Own the outbox and claim lanes once, as LaneOwner does again and again."""
        async with self.pool.acquire() as conn:
            await outbox_position.own(conn, self.resource)
            held = (await leases.claim(conn, self.scope, self.holder, range(LANES), ttl_seconds)).held
        await self.lanes.gained(held)
        return held

    async def take_again(self) -> None:
        """What the role does after an error: all lanes are lost, and gained again."""
        await self.relay.restart(self.producer)
        self.lanes.dropped(list(self.relay.lanes))
        await self.take_lanes()

    async def drain(self) -> int:
        """Passes until there is nothing to do; returns the number of events published."""
        return await drain(self.relay)


@asynccontextmanager
async def transactional_relay(
    url: str,
    bootstrap: str,
    holder: str,
    *,
    wrap_pool: Any = None,
    wrap_sessions: Any = None,
    resource: str = RESOURCE,
    tuning: Tuning = DEFAULT_TUNING,
    acknowledge_seconds: float = 10,
    **spec: Any,
) -> AsyncIterator[Parts]:
    """Its parts; the wrappers record what is done with the pool and the sessions."""
    async with pool_and_producer(url, bootstrap) as (pool, producer):
        async with pool.acquire() as conn:
            shared = Shared(await outbox.database_name(conn))
        limits: dict[str, int] = {}
        rules = make_rules(kafka=transactional_kafka(bootstrap), **spec)
        used = wrap_pool(pool) if wrap_pool else pool
        sessions = LaneSessions(
            used,
            KafkaConnection(bootstrap),
            Who(f"relay:{resource}", holder, resource),
            shared,
            limits,
            tuning=tuning,
            acknowledge_seconds=acknowledge_seconds,
            dead_block=True,
        )
        relay = Relay(
            used,
            producer,
            scope=f"relay:{resource}",
            holder=holder,
            resource=resource,
            rules=rules,
            shared=shared,
            limits=limits,
            publisher=LanePublisher(producer, wrap_sessions(sessions) if wrap_sessions else sessions, rules, shared),
        )
        async with held_sender(pool, bootstrap, holder, shared, deliver=sessions.deliver, **spec) as sender:
            try:
                yield Parts(
                    pool,
                    producer,
                    relay,
                    sessions,
                    TransactionalLanes(relay, sessions),
                    sender,
                    holder,
                    shared.database,
                    resource,
                )
            finally:
                await relay.forget()
                await sessions.stop()
