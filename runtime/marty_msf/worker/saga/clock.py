"""The worker's wall clock, in the unit that timers and deadlines are kept in."""

import time


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
