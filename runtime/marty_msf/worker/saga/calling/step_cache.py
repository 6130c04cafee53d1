"""Results of steps in this process's memory, and in a Redis that processes share. No failure of a cache fails a step.

A result that is found there stands for the call's answer in everything that follows: it is journaled as one.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

from marty_msf.core.errors import ExpressionError
from marty_msf.core.saga.caching import Cache, decoded, encoded, key_of
from marty_msf.core.saga.definition import Step
from marty_msf.core.saga.events import Succeeded
from marty_msf.core.saga.instance import Call
from marty_msf.core.saga.outcome import Outcome, succeeded
from marty_msf.worker.saga.calling.call_numbers import CallNumbers
from marty_msf.worker.saga.memory import Live

logger = logging.getLogger(__name__)

#: What an entry costs beyond key and value: its place in the dictionary.
OVERHEAD_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where the result of one call is kept, and for how long."""

    key: str
    step: str
    seconds: int


class Shared(Protocol):
    """A cache that other processes see; raises nothing."""

    async def get(self, key: str) -> tuple[bytes, float] | None:
        """What is kept, and for how many seconds more."""
        ...

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """Keep it for so long."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class LocalCache:
    """The least recently used entries go when there are too many bytes."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._max_bytes = max_bytes
        self._clock = clock
        #: Value and end, in the order of their last use.
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """Never over `max_bytes`."""
        return self._bytes

    def get(self, key: str) -> bytes | None:
        """What is kept and not too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: str, value: bytes, seconds: float) -> None:
        """Keep it for so long at most."""
        if key in self._entries:
            self._remove(key)
        self._entries[key] = value, self._clock() + seconds
        self._bytes += _cost(key, value)
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= _cost(key, value)


class StepCache:
    """What calls are answered from. The pool of calls asks it before the breaker: a hit calls nobody."""

    def __init__(
        self,
        resource: str,
        max_bytes: int,
        *,
        shared: Shared | None = None,
        of_handler: Callable[[Step], Cache | None] | None = None,
        numbers: CallNumbers | None = None,
    ) -> None:
        """`of_handler` says what the function that does a step was marked with, if one does it here."""
        self._resource = resource
        self._local = LocalCache(max_bytes)
        self._shared = shared
        self._of_handler = of_handler
        self._numbers = numbers or CallNumbers()
        #: Steps whose key failed, to say so once each.
        self._told: set[str] = set()

    def place(self, live: Live, call: Call) -> Place | None:
        """Where the result of a call is kept; None for a call that is always made."""
        step = live.definition.steps[call.step]
        if call.undo or step.pivot or step.compensation is not None:
            return None
        cache = step.cache
        if cache is None and self._of_handler is not None:
            cache = self._of_handler(step)
        if cache is None:
            return None
        # The bytes that are sent, not the context as it is now: the answer belongs to them.
        body = orjson.loads(live.bodies[call.step])
        try:
            key = key_of(cache, f"{self._resource}/{step.name}", body["context"], body["data"])
        except ExpressionError as error:
            if step.name not in self._told:
                self._told.add(step.name)
                logger.warning("step %s is called without its cache: %s", step.name, error)
            return None
        return None if key is None else Place(key, step.name, cache.ttl_seconds)

    async def get(self, place: Place) -> Outcome | None:
        """The outcome of an earlier call; None: make the call."""
        kept = self._local.get(place.key)
        if kept is None and self._shared is not None and (found := await self._shared.get(place.key)):
            kept, seconds = found
            self._local.put(place.key, kept, seconds)
        result = None if kept is None else decoded(kept)
        outcome = None if result is None else succeeded(result, "the step cache")
        hit = isinstance(outcome, Succeeded)
        self._numbers.cached(place.step, hit=hit)
        return outcome if hit else None

    async def put(self, place: Place, outcome: Outcome) -> None:
        """Keep the outcome of a call that was made; only a success is kept."""
        kept = encoded(outcome.result) if isinstance(outcome, Succeeded) else None
        if kept is None:
            return
        self._local.put(place.key, kept, place.seconds)
        if self._shared is not None:
            await self._shared.put(place.key, kept, place.seconds)

    async def close(self) -> None:
        """Let go of the shared cache."""
        if self._shared is not None:
            await self._shared.close()


def _cost(key: str, value: bytes) -> int:
    return len(key) + len(value) + OVERHEAD_BYTES
