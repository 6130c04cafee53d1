"""The circuit breakers of this saga type's services, shared with its other pods through Postgres.

A pod decides alone and at once when a service fails it: its calls stop, then the others are told. Who may send the
canary is decided by the database. What others decided is read about once a second while something is not closed here.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import asyncpg

from marty_msf.core.saga.breaker import CLOSED, Circuit, Phase, admit, probe_due, probing, released, settled
from marty_msf.core.saga.events import Failed
from marty_msf.core.saga.instance import Call
from marty_msf.core.saga.outcome import Outcome
from marty_msf.store import saga_breaker
from marty_msf.store.database import translate
from marty_msf.worker.saga.memory import Live

logger = logging.getLogger(__name__)

#: How soon a pod follows the others while a service fails.
POLL_SECONDS: Final = 1.0
#: How soon it learns of a service that has not failed here.
IDLE_POLL_SECONDS: Final = 5.0
#: What the owner of a canary gets beyond the call's own time-out.
CANARY_SLACK_MS: Final = 5_000
PROBE_AGAIN_MS: Final = 50


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Breakers:
    """The gate in front of calls. One `run` per object; all else is called from the event loop's thread."""

    def __init__(self, pool: asyncpg.Pool, resource: str, holder: str) -> None:
        self._pool = pool
        self._resource = resource
        self._holder = holder
        self._circuits: dict[str, Circuit] = {}
        #: Generation that the database is known to have.
        self._stored: dict[str, int] = {}
        #: Services about which another pod decided first.
        self._overruled: set[str] = set()
        #: Services with calls held back, and how long a canary may take.
        self._wanted: dict[str, int] = {}
        #: Generation in which each call in flight was admitted.
        self._admitted: dict[tuple[Live, int], int] = {}
        self._wake = asyncio.Event()
        #: Set when calls held back may be admitted now.
        self.changed = asyncio.Event()

    @property
    def asks_all(self) -> bool:
        """See Gate."""
        return False

    def obstacle(self, live: Live, call: Call) -> str:
        """See Gate."""
        return f"the breaker of {live.definition.steps[call.step].service} was open"

    @property
    def circuits(self) -> Mapping[str, Circuit]:
        """Every service that a breaker was asked about, as this pod sees it."""
        return MappingProxyType(self._circuits)

    def admits(self, live: Live, call: Call) -> bool:
        """Whether this call may be made now; then `settle` is owed once. A refused one is asked for again on `changed`."""
        step = live.definition.steps[call.step]
        if step.breaker is None:
            return True
        circuit = self._circuits.get(step.service)
        if circuit is None:
            circuit = self._circuits[step.service] = CLOSED
            self._wake.set()
        admitted = admit(circuit)
        if admitted is None:
            if call.timeout_ms > self._wanted.get(step.service, 0):
                self._wanted[step.service] = call.timeout_ms
                self._wake.set()
            return False
        self._circuits[step.service] = admitted
        self._admitted[live, call.step] = admitted.generation
        return True

    def settle(self, live: Live, call: Call, outcome: Outcome | None) -> None:
        """An admitted call has ended, None: without any answer."""
        step = live.definition.steps[call.step]
        if step.breaker is None:
            return
        generation = self._admitted.pop((live, call.step))
        before = self._circuits[step.service]
        if outcome is None:
            after = released(before, generation)
        else:
            error = outcome.error if isinstance(outcome, Failed) else None
            after = settled(before, step.breaker, generation, error, _now_ms())
        self._become(step.service, after)

    async def run(self) -> None:
        """Keep in step with the other pods until cancelled. Raises DatabaseUnavailable."""
        while True:
            self._wake.clear()
            if self._circuits:
                with translate():
                    async with self._pool.acquire() as conn:
                        await self._tell(conn)
                        await self._probe(conn)
                        await self._listen(conn)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds()):
                    await self._wake.wait()

    def _become(self, service: str, circuit: Circuit) -> None:
        before = self._circuits[service]
        self._circuits[service] = circuit
        if circuit.generation != before.generation:
            if circuit.phase is not before.phase:
                logger.warning(
                    "breaker of %s: %s%s", service, circuit.phase, f" ({circuit.error})" if circuit.error else ""
                )
            self._wake.set()
        if service in self._wanted and circuit.phase is not Phase.OPEN:
            if circuit.phase is Phase.CLOSED:
                del self._wanted[service]
            self.changed.set()

    async def _tell(self, conn: asyncpg.Connection) -> None:
        """Write what was decided here. Where another pod was first, its decision holds: `_listen` brings it."""
        for service, circuit in list(self._circuits.items()):
            known = self._stored.get(service, 0)
            if circuit.generation != known:
                remaining_ms = max(circuit.until_ms - _now_ms(), 0)
                row = self._row(service, circuit, remaining_ms)
                if await saga_breaker.move(conn, self._resource, known, row):
                    self._stored[service] = circuit.generation
                else:
                    self._overruled.add(service)

    async def _probe(self, conn: asyncpg.Connection) -> None:
        """Try to become the owner of the canary where calls wait and the open time is over."""
        for service, timeout_ms in list(self._wanted.items()):
            before = self._circuits[service]
            if not probe_due(before, _now_ms()):
                continue
            canary = probing(before)
            row = self._row(service, canary, timeout_ms + CANARY_SLACK_MS)
            if await saga_breaker.move(conn, self._resource, before.generation, row):
                self._stored[service] = canary.generation
                self._become(service, canary)

    async def _listen(self, conn: asyncpg.Connection) -> None:
        """Take over what the other pods decided."""
        rows = {row.service: row for row in await saga_breaker.read(conn, self._resource)}
        for service, circuit in list(self._circuits.items()):
            row = rows.get(service)
            found = row.generation if row else 0
            decided_here = circuit.generation != self._stored.get(service, 0)
            if service not in self._overruled and (decided_here or found == circuit.generation):
                continue
            self._stored[service] = found
            self._become(service, self._circuit(row) if row else CLOSED)
        self._overruled.clear()

    def _circuit(self, row: saga_breaker.Row) -> Circuit:
        phase = Phase(row.phase)
        if phase is Phase.PROBING:
            # Another pod's canary, or one of this pod's former life: to us it is open until that canary's time is over.
            phase = Phase.OPEN
        until_ms = _now_ms() + row.remaining_ms
        return Circuit(phase, row.generation, until_ms=until_ms, cohort=row.cohort, error=row.error)

    def _row(self, service: str, circuit: Circuit, remaining_ms: int) -> saga_breaker.Row:
        return saga_breaker.Row(
            service,
            circuit.generation,
            circuit.phase.value,
            remaining_ms,
            circuit.cohort,
            self._holder,
            circuit.error,
        )

    def _pause_seconds(self) -> float | None:
        """Until the next round, unless something happens here before."""
        if not self._circuits:
            return None
        quiet = all(it.phase is Phase.CLOSED and not it.failures for it in self._circuits.values())
        now = _now_ms()
        # A probe that came too early by the database's clock is repeated soon, not at once.
        due = [
            max(circuit.until_ms - now, PROBE_AGAIN_MS) / 1000
            for service in self._wanted
            if (circuit := self._circuits[service]).phase is Phase.OPEN
        ]
        return min([IDLE_POLL_SECONDS if quiet else POLL_SECONDS, *due])
