"""Waves: what happened to many instances since the last commit becomes one statement and one commit.

A wave is written as soon as the one before is durable and something happened; nothing is ever held back to fill it.
What an event makes of its instance is computed when it happens, while another wave is being written; only an instance that is
in that very wave has to wait. Commands are obeyed only after the commit that makes their intent durable.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import IllegalTransition
from marty_msf.core.saga import verbs
from marty_msf.core.saga.events import Broken, Due, Event, Locked, LockLost, LockRefused, Succeeded, Verb
from marty_msf.core.saga.instance import LIVE, Acquire, Call, Command, Commands, End, Instance, State, Wait, in_flight
from marty_msf.core.saga.journal import encode, frozen
from marty_msf.core.saga.machine import advance
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
class _Draft:
    """What one wave makes of an instance: maybe by several events, in one transaction."""

    live: Live
    instance: Instance
    bodies: Mapping[int, bytes]
    seq: int
    commands: Commands = ()
    #: Verbs that were applied (None), or why they were not.
    verbs: Sequence[tuple[Verb, str | None]] = ()


@dataclass(slots=True)
class _Sheet:
    """The next wave as far as it is made ready. The instances in it are those in memory, until lanes are lost."""

    rows: saga_wave.Wave = field(default_factory=saga_wave.Wave)
    #: Of each journal entry in `rows`.
    lives: list[Live] = field(default_factory=list)
    drafts: dict[Live, _Draft] = field(default_factory=dict)

    def leave_out_the_gone(self) -> None:
        """Their lanes may have other owners now, who read them as the journal leaves them."""
        if not any(live.gone for live in self.drafts):
            return
        rows, kept = self.rows, [at for at, live in enumerate(self.lives) if not live.gone]
        self.rows = saga_wave.Wave(
            ids=[rows.ids[at] for at in kept],
            seqs=[rows.seqs[at] for at in kept],
            lanes=[rows.lanes[at] for at in kept],
            entries=[rows.entries[at] for at in kept],
        )
        self.drafts = {live: draft for live, draft in self.drafts.items() if not live.gone}


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
        acquire: Callable[[Live, Acquire], None],
        ended: Callable[[Live], None],
        broken: Callable[[str, Exception], None],
        refused: Callable[[frozenset[int]], None],
        halted: Callable[[Live], None],
        verb_settled: Callable[[Live, Verb, str | None], None],
        happened: asyncio.Event,
        progress: asyncio.Event,
    ) -> None:
        """`halted` hears of an instance with calls in flight that turned back, parks or is paused; `verb_settled` of each verb when
        it is durable, or why it was refused when its turn came.
        """
        self._memory = memory
        self._resource = resource
        self._scope = scope
        self._holder = holder
        self._call = call
        self._acquire = acquire
        self._ended = ended
        self._broken = broken
        self._refused = refused
        self._halted = halted
        self._verb_settled = verb_settled
        self._sheet = _Sheet()
        #: What is being written, by one wave or by two.
        self._writing: set[Live] = set()
        #: Events for which there is no place on the sheet yet, in order: of instances that are being written, and of any
        #: when it is full.
        self._inbox: list[tuple[Live, Event]] = []
        self._timers: list[tuple[int, int, Live, int | None]] = []
        self._ties = itertools.count()
        self._happened = happened
        self._progress = progress

    def tell(self, live: Live, event: Event) -> None:
        """Something happened to an instance; it is in the next wave."""
        if live.gone:
            return
        if live in self._writing or len(self._sheet.lives) >= WAVE_LIMIT:
            self._inbox.append((live, event))
        else:
            self._draft(live, event)
        self._happened.set()

    def obey(self, live: Live, commands: Sequence[Command]) -> None:
        """Do what a durable transition asks for."""
        for command in commands:
            match command:
                case Call():
                    self._call(live, command)
                case Wait(until_ms, step):
                    heapq.heappush(self._timers, (until_ms, next(self._ties), live, step))
                    self._happened.set()
                case End():
                    self._memory.remove(live)
                    self._ended(live)
                case Acquire():
                    self._acquire(live, command)

    def busy(self, lanes: set[int]) -> bool:
        """Whether something of these lanes waits to be written."""
        waiting = itertools.chain(self._writing, self._sheet.drafts, (live for live, _ in self._inbox))
        return any(live.lane in lanes for live in waiting)

    def due(self) -> int | None:
        """Give the waits that are over their event; milliseconds until the next one ends."""
        now = now_ms()
        timers = self._timers
        while timers:
            until_ms, _, live, step = timers[0]
            if live.gone or not waits(live.instance, until_ms, step) or not self._memory.is_working(live.lane):
                heapq.heappop(timers)
            elif until_ms <= now:
                heapq.heappop(timers)
                self.tell(live, Due(step))
            else:
                return until_ms - now
        return None

    @property
    def waiting(self) -> bool:
        """Whether there is something to write; what is in the inbox waits for the wave that its instance is in."""
        return bool(self._sheet.drafts)

    @property
    def size(self) -> int:
        """In how many instances something happened that waits to be written."""
        return len(self._sheet.drafts)

    async def run_once(self, conn: Connection, *, beside: bool = False) -> Pass:
        """Write what happened so far and obey what it asks for. `beside`: while another wave is being written."""
        sheet, self._sheet = self._sheet, _Sheet()
        sheet.leave_out_the_gone()
        self._writing |= sheet.drafts.keys()
        # Those that only lacked a place have one now, before anything that happens while this wave is being written.
        self._tell_waiting()
        ended, refused = 0, frozenset[int]()
        try:
            if sheet.drafts:
                refused = await self._write(conn, sheet, beside=beside)
            for live, draft in sheet.drafts.items():
                if live.gone or live.lane in refused:
                    continue
                after = live.instance = draft.instance
                live.bodies, live.seq = draft.bodies, draft.seq
                self.obey(live, draft.commands)
                ended += live.gone
                if (after.paused_ms is not None or after.closing) and in_flight(after):
                    self._halted(live)
                for verb, refusal in draft.verbs:
                    self._verb_settled(live, verb, refusal)
        finally:
            self._writing -= sheet.drafts.keys()
        self._tell_waiting()
        self._progress.set()
        return Pass(len(sheet.lives), ended, refused)

    def _tell_waiting(self) -> None:
        """Once more those for which there was no place, in their order."""
        waited, self._inbox = self._inbox, []
        for live, event in waited:
            self.tell(live, event)

    async def _write(self, conn: Connection, sheet: _Sheet, *, beside: bool) -> frozenset[int]:
        """Commit the wave; the lanes that are not ours any more."""
        rows = sheet.rows
        if not rows.ids:
            return frozenset()
        for draft in sheet.drafts.values():
            _summarise(draft, rows)
        epochs = {lane: self._memory.epochs[lane] for lane in set(rows.lanes)}
        try:
            with self._memory.writing(), translate():
                held = await saga_wave.write(
                    conn,
                    rows,
                    resource=self._resource,
                    scope=self._scope,
                    holder=self._holder,
                    epochs=epochs,
                    # Each counts in a row of its own: one wave would wait for the other's commit.
                    slot=max(epochs) if beside else min(epochs),
                )
        except asyncpg.UniqueViolationError:
            # The journal is ahead of our memory, whatever the reason: the memory is wrong, not the journal.
            logger.exception(
                "%s: an instance is further than this worker believed; its lanes are read again", self._scope
            )
            held = frozenset()
        refused = frozenset(epochs) - held
        if refused:
            self._refused(refused)
        return refused

    def _draft(self, live: Live, event: Event) -> None:
        """Apply an event to what the next wave makes of the instance so far."""
        now, sheet = now_ms(), self._sheet
        draft = sheet.drafts.get(live)
        if draft is None:
            draft = _Draft(live, live.instance, live.bodies, live.seq)
        if not isinstance(event, Succeeded) and not self._fits(draft, event, now):
            return
        try:
            entry = _apply(draft, event, now)
        except Exception as error:
            # Whatever is wrong with one instance must not stop the others.
            logger.exception("saga instance %s cannot go on", live.text)
            if isinstance(error, IllegalTransition):
                # Our memory of it is wrong, not the instance: it stays as it is, durable.
                self._memory.remove(live)
                self._broken(live.text, error)
                return
            entry = _apply(draft, _fault(event, error), now)
        rows = sheet.rows
        sheet.drafts[live] = draft
        sheet.lives.append(live)
        rows.ids.append(live.id)
        rows.seqs.append(draft.seq)
        rows.lanes.append(live.lane)
        rows.entries.append(entry)

    def _fits(self, draft: _Draft, event: Event, now: int) -> bool:
        """Whether an event still means something: a wait may have been given up, also for a lock; a verb may be refused."""
        if isinstance(event, Due):
            return resting(draft.instance, event.step)
        if isinstance(event, Locked | LockRefused | LockLost):
            return draft.instance.state in LIVE
        if not isinstance(event, verbs.VERBS):
            return True
        refusal = verbs.refusal(draft.live.definition, draft.instance, event, now)
        draft.verbs = (*draft.verbs, (event, refusal))
        self._sheet.drafts[draft.live] = draft
        return refusal is None


def waits(instance: Instance, until_ms: int, step: int | None) -> bool:
    """Whether a wait that was asked for is still one."""
    if step is None:
        return instance.state is State.WAITING and not instance.paused
    operation = instance.operation(step)
    return operation is not None and operation.until_ms == until_ms and not instance.paused


def resting(instance: Instance, step: int | None) -> bool:
    """Whether there is a wait to end."""
    if step is None and instance.state is State.WAITING:
        return True
    operation = instance.operation(step)
    return operation is not None and operation.until_ms is not None


def _apply(draft: _Draft, event: Event, now: int) -> bytes:
    """The journal entry. Changes nothing when the event does not fit."""
    live = draft.live
    after, commands = advance(live.definition, draft.instance, event, now)
    lines, bodies = frozen(live.definition, after, commands, live.text, draft.bodies)
    entry = encode(event, now, lines)
    draft.instance, draft.bodies, draft.seq = after, bodies, draft.seq + 1
    draft.commands = (*draft.commands, *commands) if draft.commands else commands
    return entry


def _summarise(draft: _Draft, wave: saga_wave.Wave) -> None:
    """The instance's own row changes only with its state."""
    before, after = draft.live.instance, draft.instance
    if after.state is before.state:
        return
    wave.changed_ids.append(draft.live.id)
    wave.changed_lanes.append(draft.live.lane)
    wave.states.append(after.state.value)
    wave.errors.append(after.error[:ERROR_CHARACTERS].replace("\0", ""))
    wave.parked_before.append(before.state is State.PARKED)


def _fault(event: Event, error: Exception) -> Broken:
    """Parks an instance that `event` did not fit into; the text is made fit for the journal."""
    text = f"cannot go on after {event.TAG!r}: {type(error).__name__}: {error}"[:ERROR_CHARACTERS]
    return Broken(text.encode(errors="replace").decode())
