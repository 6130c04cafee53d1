"""Calls that their service's breaker holds back: they keep their place, take no worker slot and use up no attempt."""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from marty_msf.core.saga.instance import Call, stands_still
from marty_msf.core.saga.outcome import Outcome
from marty_msf.worker.saga.memory import Live


class Gate(Protocol):
    """Decides which calls may be made now."""

    @property
    def changed(self) -> asyncio.Event:
        """Set when calls held back may be admitted now."""
        ...

    @property
    def asks_all(self) -> bool:
        """Whether calls of steps without a breaker have to ask, too."""
        ...

    def admits(self, live: Live, call: Call) -> bool:
        """Whether this call may be made now; then `settle` is owed once. A refused one is asked for again on `changed`."""
        ...

    def settle(self, live: Live, call: Call, outcome: Outcome | None) -> None:
        """An admitted call has ended, None: without any answer."""
        ...

    def obstacle(self, live: Live, call: Call) -> str:
        """What a refused call waits for, as in "while …"."""
        ...


class HeldCalls:
    """In the order they were held, by service and direction: an undo may pass where doing may not."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._by_service: dict[tuple[str, bool], deque[tuple[Live, Call]]] = {}
        self._ends: list[tuple[int, int, Live, Call]] = []
        self._ties = itertools.count()
        self._held: set[tuple[Live, int]] = set()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, live: Live, call: Call) -> None:
        """Keep a call that was not admitted."""
        service = live.definition.steps[call.step].service, call.undo
        self._by_service.setdefault(service, deque()).append((live, call))
        self._held.add((live, call.step))
        if call.not_after_ms is not None:
            heapq.heappush(self._ends, (call.not_after_ms, next(self._ties), live, call))

    def next_admitted(self) -> tuple[Live, Call] | None:
        """The next call that the gate admits; it is to be made now."""
        for service, queue in list(self._by_service.items()):
            while queue:
                live, call = queue[0]
                if not self._waits(live, call):
                    queue.popleft()
                elif self._gate.admits(live, call):
                    queue.popleft()
                    self._held.discard((live, call.step))
                    return live, call
                else:
                    break
            else:
                del self._by_service[service]
        return None

    def overdue(self, now_ms: int) -> Iterator[tuple[Live, Call]]:
        """Take out the calls that may not be made any more."""
        while self._ends and self._ends[0][0] <= now_ms:
            _, _, live, call = heapq.heappop(self._ends)
            if self._waits(live, call):
                self._held.discard((live, call.step))
                yield live, call

    def next_end_ms(self) -> int | None:
        """When the next call becomes overdue (milliseconds since 1970)."""
        while self._ends and not self._waits(self._ends[0][2], self._ends[0][3]):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def withdraw(self, lanes: set[int]) -> Iterator[tuple[Live, Call]]:
        """Take out the calls of these lanes, and those whose instances are gone."""
        return self._take(lambda live, _: live.lane in lanes)

    def halt(self, halted: Live) -> Iterator[tuple[Live, Call]]:
        """Take out the calls of this instance that are not to be made now."""
        return self._take(lambda live, call: live is halted and stands_still(live.instance, undo=call.undo))

    def _take(self, wanted: Callable[[Live, Call], bool]) -> Iterator[tuple[Live, Call]]:
        for service, queue in list(self._by_service.items()):
            kept: deque[tuple[Live, Call]] = deque()
            for live, call in queue:
                if not self._waits(live, call):
                    continue
                if not wanted(live, call):
                    kept.append((live, call))
                    continue
                self._held.discard((live, call.step))
                yield live, call
            self._by_service[service] = kept

    def _waits(self, live: Live, call: Call) -> bool:
        if live.gone:
            self._held.discard((live, call.step))
            return False
        return (live, call.step) in self._held
