"""How many events a batch should have: as many as Kafka acknowledges promptly. Pure.

A larger batch costs less per event; one that takes long to be acknowledged delays those behind it, and a crash repeats
all of it. So the size grows while full batches come back fast, and shrinks when they come back late (additive increase
would be too slow for a drain that lasts seconds, hence by halves). What is urgent waits for the batch that it comes upon: where
there is any, batches stay small.
"""

import math
from typing import Final

#: A batch that comes back within this time may be larger, one that needs twice as long is too large. Several are on their way at
#: once, so that this is the time of all of them: a backlog's rate times this many seconds is what a crash repeats at most.
PROMPT_SECONDS: Final = 0.1
LATE: Final = 2
#: How far the size moves away from the one in the spec, up and down.
FACTOR: Final = 4
#: As far up beside what is urgent.
URGENT_FACTOR: Final = 2


class BatchSize:
    """The present size; `largest` bounds it too (what is read at once)."""

    def __init__(self, wanted: int, largest: int, *, adapts: bool, prompt_seconds: float = PROMPT_SECONDS) -> None:
        self._prompt_seconds = prompt_seconds
        self._wanted = wanted
        self._least = max(wanted // FACTOR, 1) if adapts else wanted
        self._most = max(min(wanted * FACTOR, largest), wanted) if adapts else wanted
        self.now = wanted

    def beside(self, *, urgent: bool) -> int:
        """The size where something urgent is about, or not. Where the time of a batch does not matter, neither does that."""
        if not urgent or math.isinf(self._prompt_seconds):
            return self.now
        return min(self.now, URGENT_FACTOR * self._wanted)

    def acknowledged(self, events: int, seconds: float) -> None:
        """A batch of so many events came back after so long."""
        if seconds > LATE * self._prompt_seconds:
            self.now = max(self.now // 2, self._least)
        elif seconds < self._prompt_seconds and events >= self.now:
            self.now = min(self.now + self.now // 2 + 1, self._most)
