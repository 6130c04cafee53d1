"""Waves: what happened to many instances since the last commit becomes one statement and one commit.

A wave is written as soon as the one before is durable and something happened; nothing is ever held back to fill it.
Commands are obeyed only after the commit that makes their intent durable.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import IllegalTransition
from marty_msf.core.saga.events import Broken, Due, Event
from marty_msf.core.saga.instance import Call, Command, End, Instance, Wait
from marty_msf.core.saga.journal import encode
from marty_msf.core.saga.machine import advance, request_body
from marty_msf.store import saga_wave
from marty_msf.store.database import translate
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.memory import Live, Memory

logger = logging.getLogger(__name__)

#: Bounds one statement's size and one wave's latency.
WAVE_LIMIT: Final = 2000
#: Of an instance's error in its summary row; the journal keeps all of it.
ERROR_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True)
class Pass:
    """What one wave did."""

    transitions: int
    ended: int
    #: Lanes that were not ours any more: nothing of theirs was written.
    refused: frozenset[int]


@dataclass(slots=True)
class _Move:
    live: Live
    instance: Instance
    command: Command
    body: bytes


class Waves:
    """Collects events and writes them. Sets `happened` when there is something to write, `progress` when it is written."""

    def __init__(
        self,
        memory: Memory,
        *,
        resource: str,
        scope: str,
        holder: str,
        call: Callable[[Live, Call], None],
        ended: Callable[[Live], None],
        broken: Callable[[str, Exception], None],
        refused: Callable[[frozenset[int]], None],
        happened: asyncio.Event,
        progress: asyncio.Event,
    ) -> None:
        self._memory = memory
        self._resource = resource
        self._scope = scope
        self._holder = holder
        self._call = call
        self._ended = ended
        self._broken = broken
        self._refused = refused
        self._inbox: list[tuple[Live, Event]] = []
        self._writing: list[_Move] = []
        self._timers: list[tuple[int, int, Live, int]] = []
        self._ties = itertools.count()
        self._happened = happened
        self._progress = progress

    def tell(self, live: Live, event: Event) -> None:
        """Something happened to an instance; it is in the next wave."""
        if not live.gone:
            self._inbox.append((live, event))
            self._happened.set()

    def obey(self, live: Live, command: Command) -> None:
        """Do what a durable transition asks for."""
        match command:
            case Call():
                self._call(live, command)
            case Wait(until_ms):
                heapq.heappush(self._timers, (until_ms, next(self._ties), live, live.seq))
                self._happened.set()
            case End():
                self._memory.remove(live)
                self._ended(live)

    def busy(self, lanes: set[int]) -> bool:
        """Whether something of these lanes waits to be written."""
        return any(live.lane in lanes for live, _ in self._inbox) or any(
            move.live.lane in lanes for move in self._writing
        )

    def due(self) -> int | None:
        """Give the waits that are over their event; milliseconds until the next one ends."""
        now = now_ms()
        timers = self._timers
        while timers:
            until_ms, _, live, seq = timers[0]
            if live.gone or live.seq != seq or not self._memory.is_working(live.lane):
                heapq.heappop(timers)
            elif until_ms <= now:
                heapq.heappop(timers)
                self._inbox.append((live, Due()))
            else:
                return until_ms - now
        return None

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._inbox)

    async def run_once(self, conn: Connection) -> Pass:
        """Write what is in the inbox and obey what it asks for."""
        batch, self._inbox = self._inbox[:WAVE_LIMIT], self._inbox[WAVE_LIMIT:]
        now = now_ms()
        wave = saga_wave.Wave()
        moves = self._writing = [move for live, event in batch if (move := self._move(live, event, now, wave))]
        if not moves:
            return Pass(0, 0, frozenset())
        epochs = {lane: self._memory.epochs[lane] for lane in set(wave.lanes)}
        try:
            with self._memory.writing(), translate():
                held = await saga_wave.write(
                    conn, wave, resource=self._resource, scope=self._scope, holder=self._holder, epochs=epochs
                )
        except asyncpg.UniqueViolationError:
            # The journal is ahead of our memory, whatever the reason: the memory is wrong, not the journal.
            logger.exception(
                "%s: an instance is further than this worker believed; its lanes are read again", self._scope
            )
            held = frozenset()
        finally:
            self._writing = []
        refused = frozenset(epochs) - held
        if refused:
            self._refused(refused)
        ended = 0
        for move in moves:
            live = move.live
            if live.gone or live.lane in refused:
                continue
            live.instance, live.body, live.seq = move.instance, move.body, live.seq + 1
            ended += isinstance(move.command, End)
            self.obey(live, move.command)
        self._progress.set()
        return Pass(len(moves), ended, refused)

    def _move(self, live: Live, event: Event, now: int, wave: saga_wave.Wave) -> _Move | None:
        if live.gone:
            return None
        before = live.instance
        try:
            move, entry = _moved(live, event, now)
        except Exception as error:
            # Whatever is wrong with one instance must not stop the others.
            logger.exception("saga instance %s cannot go on", live.text)
            if isinstance(error, IllegalTransition):
                # Our memory of it is wrong, not the instance: it stays as it is, durable.
                self._memory.remove(live)
                self._broken(live.text, error)
                return None
            move, entry = _moved(live, _fault(event, error), now)
        wave.ids.append(live.id)
        wave.seqs.append(live.seq + 1)
        wave.lanes.append(live.lane)
        wave.entries.append(entry)
        after = move.instance
        if after.state is not before.state:
            wave.changed_ids.append(live.id)
            wave.changed_lanes.append(live.lane)
            wave.states.append(after.state.value)
            wave.errors.append(after.error[:ERROR_CHARACTERS].replace("\0", ""))
        return move


def _moved(live: Live, event: Event, now: int) -> tuple[_Move, bytes]:
    """What the event makes of the instance, and its journal entry. Changes nothing."""
    after, command = advance(live.definition, live.instance, event, now)
    body = frozen = b""
    if isinstance(command, Call) and command.first:
        frozen = body = request_body(live.definition, after, live.text)
    elif isinstance(command, Call | Wait):
        body = live.body
    return _Move(live, after, command, body), encode(event, now, frozen)


def _fault(event: Event, error: Exception) -> Broken:
    """Parks an instance that `event` did not fit into; the text is made fit for the journal."""
    text = f"cannot go on after {event.TAG!r}: {type(error).__name__}: {error}"[:ERROR_CHARACTERS]
    return Broken(text.encode(errors="replace").decode())
