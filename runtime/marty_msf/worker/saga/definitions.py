"""The revisions of a saga's definition that instances follow: compiled once, old ones loaded when an instance needs them."""

from collections.abc import Collection

import asyncpg

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.definition import Definition, load, stored_form
from marty_msf.store import saga_instance
from marty_msf.store.database import translate


class Revisions:
    """The revisions of one resource that were kept or loaded here. No one of them is the present one."""

    #: What new instances follow; None where each start says that itself.
    current: Definition | None = None

    def __init__(self, pool: asyncpg.Pool, resource: str) -> None:
        self._pool = pool
        self._resource = resource
        self._known: dict[str, Definition] = {}

    @property
    def locking(self) -> bool:
        """Whether a revision known here has a semantic lock."""
        return any(definition.lock is not None for definition in self._known.values())

    async def register(self) -> None:
        """Called before the first instance follows `current`."""

    async def keep(self, definition: Definition, stored: bytes) -> None:
        """Have a revision in the database, before the first instance follows it; at most once from here."""
        if definition.revision in self._known:
            return
        with translate():
            async with self._pool.acquire() as conn:
                await saga_instance.keep_definition(conn, self._resource, definition.revision, stored)
        self._known[definition.revision] = definition

    async def load(self, revisions: Collection[str]) -> None:
        """Have these revisions ready for `get`, as far as they exist."""
        missing = set(revisions) - self._known.keys()
        if not missing:
            return
        with translate():
            async with self._pool.acquire() as conn:
                found = await saga_instance.definitions(conn, self._resource, sorted(missing))
        for revision, stored in found.items():
            self._known[revision] = load(stored)

    @property
    def known(self) -> Collection[Definition]:
        """The revisions that were kept or loaded here."""
        return self._known.values()

    def get(self, revision: str) -> Definition:
        """A revision that was loaded. Raises InvalidDefinition when it does not exist."""
        if revision not in self._known:
            raise InvalidDefinition(
                f"{self._resource} revision {revision}",
                "an instance follows this definition, but marty.saga_definition has no row for it",
                "restore the row from a backup",
            )
        return self._known[revision]


class Definitions(Revisions):
    """All revisions of one saga. Raises InvalidDefinition when the current spec does not compile."""

    current: Definition

    def __init__(self, pool: asyncpg.Pool, resource: str, spec: SagaSpec) -> None:
        super().__init__(pool, resource)
        self.follow(spec)

    def follow(self, spec: SagaSpec) -> None:
        """New instances follow this spec. Raises InvalidDefinition."""
        self._stored = stored_form(spec)
        self._stuck_after_seconds = spec.stuck_after_seconds
        self.current = load(self._stored)
        self._known[self.current.revision] = self.current

    async def register(self) -> None:
        """Keep the current revision in the database, before the first instance follows it."""
        with translate():
            async with self._pool.acquire() as conn:
                await saga_instance.register_definition(
                    conn, self._resource, self.current.revision, self._stored, self._stuck_after_seconds
                )
