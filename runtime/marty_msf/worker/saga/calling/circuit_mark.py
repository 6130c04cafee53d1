"""`@circuit_breaker` on a handler: its step gets a circuit breaker, as if its definition said so."""

from collections.abc import Callable
from typing import Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.calling import Breaker
from marty_msf.worker.saga.calling import marks
from marty_msf.worker.saga.calling.marks import FunctionT

MOST_FAILURES: Final = 1000
LONGEST_SECONDS: Final = 3600
_MARK: Final = "__marty_circuit_breaker__"


def circuit_breaker(failure_threshold: int = 5, timeout: int = 60) -> Callable[[FunctionT], FunctionT]:
    """Hold the calls of this handler's step back for `timeout` seconds after so many failures in a row.

    Its instances wait meanwhile and lose no attempts; then one call tries whether it works again. All processes of one
    orchestrator (pods of one Saga) share what they know. StepRejected is an answer, no failure. Only marks the function:
    called directly it is as before. Raises InvalidDefinition.
    """
    if callable(failure_threshold):
        raise InvalidDefinition("@circuit_breaker", "stands without parentheses", "write @circuit_breaker()")
    _check("failure_threshold", failure_threshold, MOST_FAILURES)
    _check("timeout", timeout, LONGEST_SECONDS)
    breaker = Breaker(failure_threshold, timeout)

    def mark(function: FunctionT) -> FunctionT:
        return marks.put(function, _MARK, breaker, "@circuit_breaker")

    return mark


def breaker_of(function: object) -> Breaker | None:
    """What a function was marked with."""
    mark = getattr(function, _MARK, None)
    return mark if isinstance(mark, Breaker) else None


def _check(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidDefinition(
            f"circuit_breaker({name}=…)", f"{value!r} is no whole number from 1 to {most}", "correct it"
        )
