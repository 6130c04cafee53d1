"""Moves instances to another revision of their definition: the one verb that is no event of one definition."""

import asyncpg
import orjson

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.events import Migrated
from marty_msf.core.saga.history import whereabouts
from marty_msf.core.saga.instance import LIVE, in_flight
from marty_msf.core.saga.journal import Folded, migrated
from marty_msf.core.saga.migration import carried, form, moved
from marty_msf.core.user_values import kept
from marty_msf.store import saga_verb
from marty_msf.store.database import translate
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.definitions import Revisions
from marty_msf.worker.saga.memory import Live, Memory


class Mover:
    """Carries out `migrate` in the lanes of this process."""

    def __init__(self, pool: asyncpg.Pool, scope: str, holder: str, memory: Memory, definitions: Revisions) -> None:
        self._pool = pool
        self._scope = scope
        self._holder = holder
        self._memory = memory
        self._definitions = definitions

    async def move(self, asked: saga_verb.Asked, folded: Folded, epoch: int) -> bool:
        """Move an instance at rest and answer; False when it has to wait for its calls, or its lane is gone.

        Raises InvalidDefinition when it cannot be moved.
        """
        arguments = orjson.loads(asked.arguments)
        await self._definitions.load({arguments["to"]})
        names = arguments.get("map", {})
        if asked.revision != arguments["from"]:
            raise InvalidDefinition("from", f"the instance follows revision {asked.revision}", "name that one")
        live = self._memory.get(str(asked.instance))
        instance = live.instance if live else folded.instance
        if instance.paused and in_flight(instance):
            return False
        if live is None and instance.state in LIVE:
            return False
        old, new = self._definitions.get(asked.revision), self._definitions.get(arguments["to"])
        after = moved(old, new, instance, names)
        bodies = carried(old, new, names, live.bodies if live else folded.bodies)
        seq = (live.seq if live else len(asked.entries)) + 1
        entry = migrated(Migrated(asked.by, old.revision, form(after), asked.number), now_ms(), bodies)
        if live is not None:
            # Nothing may happen to it in between: it comes back as it was written.
            self._memory.remove(live)
        with self._memory.writing(), translate():
            async with self._pool.acquire() as conn:
                written = await saga_verb.migrate(
                    conn,
                    asked,
                    scope=self._scope,
                    holder=self._holder,
                    epoch=epoch,
                    seq=seq,
                    entry=entry,
                    revision=new.revision,
                    answer=kept(f"follows revision {new.revision}: {whereabouts(new, after)}"),
                )
        if live is not None:
            now = (new, after, seq, bodies) if written else (live.definition, live.instance, live.seq, live.bodies)
            self._memory.add(
                Live(
                    live.id,
                    live.text,
                    live.lane,
                    now[0],
                    live.started_ms,
                    now[1],
                    now[2],
                    now[3],
                    traceparent=live.traceparent,
                )
            )
        return written
