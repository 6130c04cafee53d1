"""Steps whose handler this process does not have (yet): their calls wait, hold no worker and lose no attempt."""

import asyncio

from marty_msf.core.saga.calling import PythonCall
from marty_msf.core.saga.definition import Step
from marty_msf.core.saga.instance import Call
from marty_msf.core.saga.outcome import Outcome
from marty_msf.patterns.saga.compiling import undo_name
from marty_msf.worker.saga.calling.breaker import Breakers
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.memory import Live


def handler_name(handlers: Handlers, step: Step, *, undo: bool) -> str | None:
    """Under which name the function that does (undoes) a step is registered in this process."""
    if undo:
        return undo_name(handlers, step.name, step.compensation)
    return step.name if handlers.has(step.name, undo=False) else None


class HandlerGate:
    """In front of the breakers, see Gate."""

    def __init__(self, breakers: Breakers, handlers: Handlers) -> None:
        self._breakers = breakers
        self._handlers = handlers
        self._missing: dict[tuple[str, bool], Step] = {}

    @property
    def changed(self) -> asyncio.Event:
        """See Gate."""
        return self._breakers.changed

    @property
    def asks_all(self) -> bool:
        """See Gate."""
        return True

    def admits(self, live: Live, call: Call) -> bool:
        """See Gate."""
        step = live.definition.steps[call.step]
        if self._lacks(step, undo=call.undo):
            self._missing[step.name, call.undo] = step
            return False
        return self._breakers.admits(live, call)

    def settle(self, live: Live, call: Call, outcome: Outcome | None) -> None:
        """See Gate."""
        self._breakers.settle(live, call, outcome)

    def obstacle(self, live: Live, call: Call) -> str:
        """See Gate."""
        step = live.definition.steps[call.step]
        if self._lacks(step, undo=call.undo):
            return f"no {_kind(undo=call.undo)} handler of {step.name!r} was registered"
        return self._breakers.obstacle(live, call)

    def handlers_changed(self) -> None:
        """A handler was registered: calls that waited for it may be made."""
        self._breakers.changed.set()

    def missing(self) -> list[str]:
        """What calls waited for and is still missing, as sentences."""
        self._missing = {key: step for key, step in self._missing.items() if self._lacks(step, undo=key[1])}
        return [
            f"instances wait for a {_kind(undo=undo)} handler of {name!r}: register it in this process"
            for name, undo in sorted(self._missing)
        ]

    def lacking(self, live: Live) -> list[str]:
        """What calls of this instance wait for here, as sentences."""
        steps = live.definition.steps
        return [
            f"{steps[it.step].name} waits for a {_kind(undo=it.undo)} handler in its process"
            for it in live.instance.operations
            if it.until_ms is None and self._lacks(steps[it.step], undo=it.undo)
        ]

    def _lacks(self, step: Step, *, undo: bool) -> bool:
        return isinstance(step.call, PythonCall) and handler_name(self._handlers, step, undo=undo) is None


def _kind(*, undo: bool) -> str:
    return "compensation" if undo else "step"
