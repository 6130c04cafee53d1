"""How many events a batch should have: as many as Kafka acknowledges promptly. Pure.

A larger batch costs less per event; one that takes long to be acknowledged delays those behind it, and a crash repeats
all of it. So the size grows while full batches come back fast, and shrinks when they come back late (additive increase
would be too slow for a drain that lasts seconds, hence by halves).
"""

from typing import Final

#: A batch that comes back within this time may be larger, one that needs four times as long is too large.
PROMPT_SECONDS: Final = 0.025
LATE: Final = 4
#: How far the size moves away from the one in the spec, up and down.
FACTOR: Final = 4


class BatchSize:
    """The present size; `largest` bounds it too (what is read at once)."""

    def __init__(self, wanted: int, largest: int, *, adapts: bool, prompt_seconds: float = PROMPT_SECONDS) -> None:
        self._prompt_seconds = prompt_seconds
        self._least = max(wanted // FACTOR, 1) if adapts else wanted
        self._most = max(min(wanted * FACTOR, largest), wanted) if adapts else wanted
        self.now = wanted

    def acknowledged(self, events: int, seconds: float) -> None:
        """A batch of so many events came back after so long."""
        if seconds > LATE * self._prompt_seconds:
            self.now = max(self.now // 2, self._least)
        elif seconds < self._prompt_seconds and events >= self.now:
            self.now = min(self.now + self.now // 2 + 1, self._most)
