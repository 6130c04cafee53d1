"""Takes the verbs that people ask for to their instances, and the answers back.

A verb is done exactly once: its number stands in the journaled event, so that whoever finds it open after a crash sees
whether it was done, and in the row's own answer, which is written after the commit of the event and never twice.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from marty_msf.core.errors import MartyError
from marty_msf.core.saga import asked, verbs
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Migrated, Unlock, Verb
from marty_msf.core.saga.history import whereabouts
from marty_msf.core.saga.instance import LIVE
from marty_msf.core.saga.journal import Folded, decode, fold
from marty_msf.store import saga_verb
from marty_msf.store.database import translate
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.definitions import Revisions
from marty_msf.worker.saga.locks import Locks
from marty_msf.worker.saga.memory import Live, Memory
from marty_msf.worker.saga.surface.moving import Mover

#: Verbs read at once, with the journals of their instances.
_LIMIT: Final = 100


class Desk:
    """The verbs of the instances in our lanes. `look` is called by one task, again and again."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        resource: str,
        memory: Memory,
        definitions: Revisions,
        mover: Mover,
        locks: Locks,
        tell: Callable[[Live, Verb], None],
        wake: asyncio.Event,
    ) -> None:
        """`tell` puts a verb into the next wave; `wake` is set when there is an answer to write."""
        self._pool = pool
        self._resource = resource
        self._memory = memory
        self._definitions = definitions
        self._mover = mover
        self._locks = locks
        self._tell = tell
        self._wake = wake
        #: Told and not settled yet, by the verb's number.
        self._told: dict[int, Live] = {}
        self._answers: dict[int, tuple[bool, str]] = {}

    async def look(self, epochs: Mapping[int, int]) -> None:
        """Write answers, then take up what was asked in these lanes. Raises DatabaseUnavailable."""
        # What became of a verb whose instance left us is seen by whoever loads the instance next, maybe we ourselves.
        self._told = {number: live for number, live in self._told.items() if not live.gone}
        answers = dict(self._answers)
        with translate():
            async with self._pool.acquire() as conn:
                if answers:
                    await saga_verb.answer(conn, [(number, *answer) for number, answer in answers.items()])
                    for number in answers:
                        del self._answers[number]
                busy = [*self._told, *self._answers]
                found = await saga_verb.open_verbs(conn, self._resource, sorted(epochs), busy, _LIMIT)
        if not found:
            return
        await self._definitions.load({it.revision for it in found})
        for it in found:
            # A lane that left us since the statement began may have been worked on by others: its rows are old.
            if self._memory.working_lanes().get(it.lane) == epochs[it.lane]:
                await self._take(it, epochs[it.lane])

    def settled(self, live: Live, event: Verb, refusal: str | None) -> None:
        """The verb is durable, or was refused when its turn came and changed nothing."""
        if event.verb is not None:
            self._told.pop(event.verb, None)
            if refusal is None:
                self._done(event, event.verb, live.id, live.lane, whereabouts(live.definition, live.instance))
            else:
                self._answer(event.verb, False, refusal)
        if live.instance.state not in LIVE and not live.gone:
            self._memory.remove(live)

    async def _take(self, it: saga_verb.Asked, epoch: int) -> None:
        try:
            definition = self._definitions.get(it.revision)
            folded = fold(definition, orjson.loads(it.context), it.entries)
            arguments = orjson.loads(it.arguments)
            journaled = _journaled(it)
            if not journaled:
                # Whoever wrote the row may have been of a release that let more pass.
                asked.check(it.verb, arguments, it.by)
            if it.verb == asked.MIGRATE and not journaled:
                await self._mover.move(it, folded, epoch)
                return
            event = asked.event(it.verb, arguments, it.by, it.number, definition)
            live = self._memory.get(str(it.instance))
        except (MartyError, LookupError, ValueError) as error:
            # Whatever is wrong with one verb or instance must not stop the others.
            self._answer(it.number, False, str(error))
            return
        if journaled:
            text = whereabouts(definition, live.instance if live else folded.instance)
            self._done(event, it.number, it.instance, it.lane, text)
        elif live is not None:
            self._told[it.number] = live
            self._tell(live, event)
        elif folded.instance.state not in LIVE:
            self._wake_up(it, definition, folded, event)
        # Else it is live and not in memory: about to be taken up. The next look finds it there.

    def _wake_up(self, it: saga_verb.Asked, definition: Definition, folded: Folded, event: Verb) -> None:
        """The instance is at rest. It comes back into memory only for a verb that it allows."""
        refusal = verbs.refusal(definition, folded.instance, event, now_ms())
        if refusal is not None:
            self._answer(it.number, False, refusal)
            return
        live = Live(
            it.instance,
            str(it.instance),
            it.lane,
            definition,
            it.started_ms,
            folded.instance,
            len(it.entries),
            folded.bodies,
            traceparent=it.traceparent,
        )
        if self._memory.add(live):
            self._told[it.number] = live
            self._tell(live, event)

    def _done(self, event: Verb, number: int, instance: UUID, lane: int, text: str) -> None:
        """The verb is durable. What it says of a lock has to be so before the verb is answered: else nobody would do it."""
        if isinstance(event, Unlock):
            self._locks.free(instance, lane, lambda: self._answer(number, True, text))
        else:
            self._answer(number, True, text)

    def _answer(self, number: int, done: bool, text: str) -> None:
        self._answers[number] = done, text
        self._wake.set()


def _journaled(it: saga_verb.Asked) -> bool:
    events = (decode(entry)[1] for entry in it.entries)
    return any(isinstance(event, Verb | Migrated) and event.verb == it.number for event in events)
