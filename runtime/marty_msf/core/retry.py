"""How long to wait before a call is made again. Pure: the random number comes in with the question."""

from dataclasses import dataclass
from typing import Final

#: A service cannot make us wait longer than this with Retry-After.
LONGEST_RETRY_AFTER_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with a cap and jitter.

    `attempts` counts the first call too. `jitter` is the share of each wait that is spread evenly to both sides.
    """

    attempts: int
    initial_backoff_ms: int
    multiplier: float
    max_backoff_ms: int
    jitter: float

    def allows(self, calls_made: int) -> bool:
        """Whether another call may follow `calls_made` calls."""
        return calls_made < self.attempts


def delay_ms(policy: RetryPolicy, calls_made: int, random: float, retry_after_ms: int | None = None) -> int:
    """Milliseconds to wait after `calls_made` calls (at least one).

    `random` is in [0, 1). What the service asked for with Retry-After is a lower bound.
    """
    try:
        grown = policy.initial_backoff_ms * policy.multiplier ** (calls_made - 1)
    except OverflowError:
        grown = policy.max_backoff_ms
    spread = min(grown, policy.max_backoff_ms) * (1 + policy.jitter * (2 * random - 1))
    return max(round(spread), min(retry_after_ms or 0, LONGEST_RETRY_AFTER_MS), 1)
