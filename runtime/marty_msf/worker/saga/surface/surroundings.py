"""What lies around the instances of some sagas, read from the database: for a diagnosis by anybody, not only their worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.saga.breaker import Phase
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.diagnosis import Around, diagnosis, stuck
from marty_msf.core.saga.instance import Instance
from marty_msf.core.saga.journal import Folded
from marty_msf.store import saga_breaker, saga_instance, saga_lock
from marty_msf.worker.saga.clock import now_ms

#: Of a saga that never ran here with a version of Marty that knows of it.
DEFAULT_STUCK_AFTER_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Surroundings:
    """By saga (`namespace/name`)."""

    #: Services whose breaker is not closed, with the error.
    breakers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stuck_after_seconds: Mapping[str, int] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """The sagas it speaks of."""
        return frozenset(self.breakers)

    def joined(self, more: "Surroundings") -> "Surroundings":
        """Both together."""
        return Surroundings(
            {**self.breakers, **more.breakers}, {**self.stuck_after_seconds, **more.stuck_after_seconds}
        )

    def diagnosis(self, resource: str, definition: Definition, folded: Folded, lock_holder: str = "") -> str:
        """See core.saga.diagnosis."""
        around = Around(breakers=self.breakers.get(resource, {}), called_ms=folded.called_ms, lock_holder=lock_holder)
        return diagnosis(definition, folded.instance, around)

    def stuck(self, resource: str, instance: Instance, progress_ms: int) -> bool:
        """Whether its last progress is too long ago."""
        bound_seconds = self.stuck_after_seconds.get(resource, DEFAULT_STUCK_AFTER_SECONDS)
        return stuck(progress_ms, instance, bound_seconds, now_ms())


async def look_around(conn: Connection, resources: Sequence[str]) -> Surroundings:
    """Of these sagas."""
    breakers = {resource: await _breakers(conn, resource) for resource in resources}
    return Surroundings(breakers, await saga_instance.stuck_after_seconds(conn, resources))


async def lock_holders(conn: Connection, waiting: Sequence[UUID]) -> Mapping[UUID, str]:
    """Who holds the semantic lock that each of these instances waits for, for `Surroundings.diagnosis`."""
    if not waiting:
        return {}
    found = await saga_lock.before(conn, waiting)
    return {instance: f"{it.instance} of {it.resource} (key {it.key!r})" for instance, it in found.items()}


async def _breakers(conn: Connection, resource: str) -> Mapping[str, str]:
    rows = await saga_breaker.read(conn, resource)
    return {row.service: row.error for row in rows if row.phase != Phase.CLOSED.value}
