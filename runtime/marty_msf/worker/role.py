"""What the service shell and the three roles (saga, relay, projection) promise each other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg
from aiohttp import web
from prometheus_client import CollectorRegistry

from marty_msf.core.worker_status import Local, ProjectionTotals, RelayTotals, SagaTotals
from marty_msf.worker.board import Board


@dataclass(frozen=True, slots=True)
class Context:
    """What the shell gives to a role."""

    pool: asyncpg.Pool
    #: Identity of this process in leases: `<pod>/<random>`.
    holder: str
    #: `namespace/name`: identity of the resource in the database.
    resource: str
    board: Board
    registry: CollectorRegistry


class Role(Protocol):
    """The role's own work. The shell restarts `run` from the database's state whenever it raises a MartyError."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish or hand back what is in flight and return.

        Called again after an error, so it keeps nothing from the call before. It clears the Board once it works, and
        raises DatabaseUnavailable, BrokerUnavailable, TopicUnavailable, … for what the shell shall report and retry.
        """
        ...

    async def totals(self) -> SagaTotals | RelayTotals | ProjectionTotals:
        """Global numbers, read from counter rows in Postgres."""
        ...

    def local(self) -> Local:
        """About this process."""
        ...

    def routes(self) -> Sequence[web.RouteDef]:
        """Further HTTP routes; the shell puts the bearer token in front of all of them."""
        ...
