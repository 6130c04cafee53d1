"""The circuit breaker of one downstream service, as a pure value: the clock comes in with each question.

| phase | calls | ends |
|---|---|---|
| Closed | all | after `failure_threshold` failures in a row: Open |
| Open | none | after `open_seconds`, when somebody wants to call: Probing |
| Probing | one, the canary | it succeeds: Recovering; it fails: Open again |
| Recovering | so many at once as the cohort has | a cohort succeeds: twice as many, from LAST_COHORT on Closed; one fails: Open |

Every change of phase or cohort raises the generation. The answer of a call that was admitted in an older one says
nothing about the service now and is not counted.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from marty_msf.core.saga.calling import Breaker

FIRST_COHORT: Final = 2
#: The cohort whose success closes the circuit.
LAST_COHORT: Final = 32


class Phase(StrEnum):
    CLOSED = "Closed"
    OPEN = "Open"
    PROBING = "Probing"
    RECOVERING = "Recovering"


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of one service."""

    phase: Phase = Phase.CLOSED
    generation: int = 0
    #: In a row, while closed.
    failures: int = 0
    #: End of the open time (milliseconds, of the caller's clock).
    until_ms: int = 0
    #: Calls at once while recovering.
    cohort: int = 0
    #: Of this generation, admitted and not yet settled; kept while probing and recovering only.
    in_flight: int = 0
    #: Successes of the cohort.
    succeeded: int = 0
    #: Of the failure that opened it.
    error: str = ""


CLOSED: Final = Circuit()


def admit(circuit: Circuit) -> Circuit | None:
    """The circuit with one more call in flight; None when the call has to wait."""
    match circuit.phase:
        case Phase.CLOSED:
            return circuit
        case Phase.OPEN:
            return None
        case Phase.PROBING:
            room = 1
        case Phase.RECOVERING:
            # What has succeeded counts too: a cohort is so many calls, not so many at every moment.
            room = circuit.cohort - circuit.succeeded
    return replace(circuit, in_flight=circuit.in_flight + 1) if circuit.in_flight < room else None


def probe_due(circuit: Circuit, now_ms: int) -> bool:
    """Whether the open time is over: who wants to call may try to become the canary."""
    return circuit.phase is Phase.OPEN and now_ms >= circuit.until_ms


def probing(circuit: Circuit) -> Circuit:
    """The next admitted call is the canary."""
    return Circuit(Phase.PROBING, circuit.generation + 1, error=circuit.error)


def settled(circuit: Circuit, breaker: Breaker, generation: int, error: str | None, now_ms: int) -> Circuit:
    """A call admitted in `generation` was answered; `error` says how it failed, None that it did not."""
    if generation != circuit.generation:
        return circuit
    if error is not None:
        failures = circuit.failures + 1
        if circuit.phase is Phase.CLOSED and failures < breaker.failure_threshold:
            return replace(circuit, failures=failures)
        return opened(circuit, now_ms + breaker.open_seconds * 1000, error)
    match circuit.phase:
        case Phase.CLOSED:
            return replace(circuit, failures=0) if circuit.failures else circuit
        case Phase.PROBING:
            return Circuit(Phase.RECOVERING, circuit.generation + 1, cohort=FIRST_COHORT, error=circuit.error)
        case _:
            return _one_more(circuit)


def released(circuit: Circuit, generation: int) -> Circuit:
    """An admitted call came to nothing: it was not made, or nobody knows how it ended."""
    if generation != circuit.generation or not circuit.in_flight:
        return circuit
    return replace(circuit, in_flight=circuit.in_flight - 1)


def opened(circuit: Circuit, until_ms: int, error: str) -> Circuit:
    """No calls before `until_ms`."""
    return Circuit(Phase.OPEN, circuit.generation + 1, until_ms=until_ms, error=error)


def _one_more(circuit: Circuit) -> Circuit:
    succeeded = circuit.succeeded + 1
    if succeeded < circuit.cohort:
        return replace(circuit, in_flight=max(circuit.in_flight - 1, 0), succeeded=succeeded)
    if circuit.cohort >= LAST_COHORT:
        return Circuit(Phase.CLOSED, circuit.generation + 1)
    return Circuit(Phase.RECOVERING, circuit.generation + 1, cohort=circuit.cohort * 2, error=circuit.error)
