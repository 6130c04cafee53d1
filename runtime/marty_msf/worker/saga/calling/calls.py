"""Calls in flight: a bounded number of tasks that take the committed intents in order."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol

from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.definition import Step
from marty_msf.core.saga.events import Failed, Withdrawn
from marty_msf.core.saga.instance import Call, stands_still
from marty_msf.core.saga.machine import idempotency_key
from marty_msf.core.saga.outcome import Outcome
from marty_msf.core.user_values import said
from marty_msf.core.value import value
from marty_msf.worker.ownership import any_of
from marty_msf.worker.saga.calling.call_numbers import CallNumbers
from marty_msf.worker.saga.calling.gate import Gate, HeldCalls
from marty_msf.worker.saga.calling.step_cache import Place, StepCache
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.memory import Live

logger = logging.getLogger(__name__)

#: Handlers that never wait would keep the event loop for themselves: what they answered is to be on its way to the database while
#: the next ones work, not after all of them did.
CALLS_PER_TURN: Final = 32
#: For calls that are cancelled to tidy up. Of the pod's grace period, after the engine's DRAIN_SECONDS.
LET_GO_SECONDS: Final = 2.0
#: Calls that one line of the log names.
TOLD_LIMIT: Final = 10


@value
class Request:
    """One call of a service or handler."""

    service: str
    #: Path of the action, or of the compensation when `undo`.
    action: str
    undo: bool
    idempotency_key: str
    #: The frozen JSON body of the call contract.
    body: bytes
    timeout_seconds: float
    step: Step
    #: The instance's context as it is now; the body has it as it was when the operation began.
    context: Mapping[str, Any]
    saga_id: str
    #: Of the W3C trace that the call belongs to; None: a trace of the instance's own.
    traceparent: str | None = None


class Caller(Protocol):
    """How steps are called: over HTTP, or in this process."""

    def call(self, request: Request) -> Awaitable[Outcome]:
        """Make the call and say what became of it; raises nothing but CancelledError."""
        ...


class Messenger(Protocol):
    """How steps are called by messages: nobody waits in between."""

    def begin(self, live: Live, call: Call, done: Callable[[Live, Call, Outcome | None], None]) -> None:
        """Make the call; `done` hears of its outcome once, or None when it was given up without one."""
        ...

    def withdraw(self, lanes: set[int]) -> Iterable[tuple[Live, Call]]:
        """Give up the calls of these lanes; yields those that were not begun."""
        ...

    def halt(self, halted: Live) -> Iterable[Call]:
        """Give up the calls of this instance that are not to be made now and were not begun; yields them."""
        ...


class CallPool:
    """Up to `size` calls at once, first come, first served, but for those that a breaker holds back."""

    def __init__(
        self,
        caller: Caller,
        size: int,
        done: Callable[[Live, Outcome | Withdrawn], None],
        gate: Gate,
        numbers: CallNumbers,
        messenger: Messenger | None = None,
        cache: StepCache | None = None,
    ) -> None:
        """`done` hears of each call's outcome; one of a parallel group names its step. Calls over Kafka are the
        `messenger`'s, if there is one: they are not among the `size`.
        """
        self._numbers = numbers
        self._messenger = messenger
        self._cache = cache
        self._gate = gate
        self._held = HeldCalls(gate)
        #: Calls in the queue that the gate has admitted.
        self._admitted: set[tuple[Live, int]] = set()
        self._caller = caller
        self._size = size
        self._done = done
        self._queue: deque[tuple[Live, Call]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        #: A task was woken and did not run yet. It wakes the next one, so handlers that never wait cost one wake-up.
        self._waking = False
        self._in_flight: set[tuple[Live, int]] = set()
        #: Looked at beside the cancellation of the tasks, because a handler may swallow that one.
        self._closing = False
        #: A call was held: its deadline may be the next one.
        self._held_more = asyncio.Event()

    def put(self, live: Live, call: Call) -> None:
        """Make this call as soon as one of the tasks is free. Its intent is durable."""
        self._queue.append((live, call))
        self._wake_one()

    def withdraw(self, lanes: set[int]) -> None:
        """Give back the calls of these lanes that were not begun."""
        kept: deque[tuple[Live, Call]] = deque()
        for live, call in self._queue:
            if live.lane not in lanes:
                kept.append((live, call))
                continue
            self._release(live, call)
            if not live.gone:
                self._done(live, Withdrawn(call.step))
        self._queue = kept
        for live, call in self._held.withdraw(lanes):
            self._done(live, Withdrawn(call.step))
        if self._messenger is not None:
            for live, call in self._messenger.withdraw(lanes):
                self._done(live, Withdrawn(call.step))

    def halt(self, halted: Live) -> None:
        """Give back the calls of an instance that turned back, parks or was paused, unless they were begun."""
        held = list(self._held.halt(halted))
        kept: deque[tuple[Live, Call]] = deque()
        for live, call in self._queue:
            if live is halted and stands_still(live.instance, undo=call.undo):
                self._release(live, call)
                held.append((live, call))
            else:
                kept.append((live, call))
        self._queue = kept
        if self._messenger is not None:
            held += [(halted, call) for call in self._messenger.halt(halted)]
        for live, call in held:
            self._done(live, Withdrawn(call.step))

    def busy(self, lanes: set[int]) -> bool:
        """Whether a call of these lanes is in flight."""
        return any(live.lane in lanes and not live.gone for live, _ in self._in_flight)

    async def run(self) -> None:
        """Make calls until cancelled. One that does not end then is left: its outcome comes to nothing."""
        # No TaskGroup: it would wait for as long as a handler pleases.
        tasks = {
            asyncio.create_task(self._follow_gate()),
            *(asyncio.create_task(self._work()) for _ in range(self._size)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if not task.cancelled():
                    task.result()
        finally:
            self._closing = True
            for task in tasks:
                task.cancel()
            _, left = await asyncio.wait(tasks, timeout=LET_GO_SECONDS)
            if left:
                self._tell_left()

    async def _work(self) -> None:
        turn = 0
        while not self._closing:
            if not self._queue:
                await self._wait()
                turn = 0
                continue
            live, call = self._queue.popleft()
            if self._queue:
                self._wake_one()
            step = live.definition.steps[call.step]
            if live.gone:
                self._release(live, call)
                continue
            place = self._cache.place(live, call) if self._cache is not None else None
            if place is not None and await self._from_cache(place, live, call):
                continue
            if (step.breaker is not None or self._gate.asks_all) and not self._passes(live, call):
                continue
            if self._messenger is not None and isinstance(step.call, KafkaCall):
                self._messenger.begin(live, call, partial(self._answered, perf_counter()))
                continue
            outcome: Outcome | None = None
            self._in_flight.add((live, call.step))
            began = perf_counter()
            try:
                outcome = await self._call(live, call)
            finally:
                self._in_flight.discard((live, call.step))
                if step.breaker is not None:
                    self._gate.settle(live, call, outcome)
            if self._closing:
                # The handler swallowed its cancellation, and has ended now: whoever owns the lane makes the call again.
                return
            self._numbers.called(step.name, call, outcome, perf_counter() - began)
            self._tell(live, call, outcome)
            if place is not None and self._cache is not None:
                await self._cache.put(place, outcome)
            turn += 1
            if turn % CALLS_PER_TURN == 0:
                await asyncio.sleep(0)

    def _tell_left(self) -> None:
        calls = sorted(f"step {live.definition.steps[step].name!r} of {live.text}" for live, step in self._in_flight)
        more = f" and {len(calls) - TOLD_LIMIT} more" if len(calls) > TOLD_LIMIT else ""
        logger.error(
            "cancelled calls did not end within %.0f s and are left behind: %s%s: a handler must let CancelledError pass",
            LET_GO_SECONDS,
            ", ".join(calls[:TOLD_LIMIT]),
            more,
        )

    def _tell(self, live: Live, call: Call, outcome: Outcome) -> None:
        if live.definition.steps[call.step].group is not None:
            outcome = replace(outcome, step=call.step)
        self._done(live, outcome)

    def _answered(self, began: float, live: Live, call: Call, outcome: Outcome | None) -> None:
        """The messenger is done with a call."""
        if live.definition.steps[call.step].breaker is not None:
            self._gate.settle(live, call, outcome)
        if outcome is not None:
            step = live.definition.steps[call.step].name
            self._numbers.called(step, call, outcome, perf_counter() - began)
            self._tell(live, call, outcome)

    async def _from_cache(self, place: Place, live: Live, call: Call) -> bool:
        """Answer the call from the cache, ahead of the gate: nobody is called, so it says nothing of the service."""
        assert self._cache is not None
        self._in_flight.add((live, call.step))
        try:
            outcome = await self._cache.get(place)
        finally:
            self._in_flight.discard((live, call.step))
        # While the cache was asked.
        halted = not live.gone and stands_still(live.instance, undo=call.undo)
        if outcome is None and not (live.gone or halted):
            return False
        self._release(live, call)
        if outcome is not None:
            self._tell(live, call, outcome)
            await asyncio.sleep(0)
        elif halted:
            self._done(live, Withdrawn(call.step))
        return True

    def _passes(self, live: Live, call: Call) -> bool:
        """Whether the gate lets this call through now; else it is held, without a task of its own."""
        if (live, call.step) in self._admitted:
            self._admitted.discard((live, call.step))
            return True
        if self._gate.admits(live, call):
            return True
        self._held.hold(live, call)
        self._held_more.set()
        return False

    def _release(self, live: Live, call: Call) -> None:
        """A call that the gate admitted is not made after all."""
        if (live, call.step) in self._admitted:
            self._admitted.discard((live, call.step))
            self._gate.settle(live, call, None)

    async def _follow_gate(self) -> None:
        """Put held calls in front of the queue as the gate admits them; give up those that may not be made any more."""
        while True:
            self._gate.changed.clear()
            self._held_more.clear()
            while admitted := self._held.next_admitted():
                live, call = admitted
                self._admitted.add((live, call.step))
                self._queue.appendleft(admitted)
                self._wake_one()
            for live, call in self._held.overdue(now_ms()):
                obstacle = self._gate.obstacle(live, call)
                self._tell(live, call, Failed(f"the deadline passed while {obstacle}", False, 0.0))
            end_ms = self._held.next_end_ms()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if end_ms is None else max(end_ms - now_ms(), 0) / 1000):
                    await any_of(self._gate.changed, self._held_more)

    async def _call(self, live: Live, call: Call) -> Outcome:
        timeout_ms = call.timeout_ms
        if call.not_after_ms is not None:
            timeout_ms = min(timeout_ms, call.not_after_ms - now_ms())
            if timeout_ms <= 0:
                return Failed("the deadline passed before the call was made", False, 0.0)
        step = live.definition.steps[call.step]
        try:
            return await self._caller.call(
                Request(
                    step.service,
                    live.definition.url_path(call.step, undo=call.undo),
                    call.undo,
                    idempotency_key(live.definition, live.text, call),
                    live.bodies[call.step],
                    timeout_ms / 1000,
                    step,
                    live.instance.context,
                    live.text,
                    live.traceparent,
                )
            )
        except Exception as error:
            # What one answer did to its reader must not stop the other calls. It spends this call's own budget.
            logger.exception("saga instance %s: the call of step %s went wrong on our side", live.text, step.name)
            spread = random.random()  # noqa: S311  # spreads waits, guards nothing
            return Failed(f"the call went wrong in the worker: {type(error).__name__}: {said(error)}", True, spread)

    async def _wait(self) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        await woken
        self._waking = False

    def _wake_one(self) -> None:
        while self._idle and not self._waking:
            woken = self._idle.pop()
            if not woken.done():
                woken.set_result(None)
                self._waking = True
