"""The circuit breaker's rules, over any order of calls, answers and time."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.saga.breaker import (
    CLOSED,
    FIRST_COHORT,
    LAST_COHORT,
    Circuit,
    Phase,
    admit,
    probe_due,
    probing,
    released,
    settled,
)
from marty_msf.core.saga.calling import Breaker

BREAKER = Breaker(failure_threshold=3, open_seconds=10)


def call(circuit: Circuit, error: str | None, now_ms: int = 0) -> Circuit:
    """One call from its admission to its answer."""
    admitted = admit(circuit)
    assert admitted is not None
    return settled(admitted, BREAKER, admitted.generation, error, now_ms)


def opened(now_ms: int = 0) -> Circuit:
    circuit = CLOSED
    for _ in range(BREAKER.failure_threshold):
        circuit = call(circuit, "HTTP 503", now_ms)
    return circuit


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    circuit = CLOSED
    for error in ("x", "x", None, "x", "x"):
        circuit = call(circuit, error)
    assert circuit.phase is Phase.CLOSED
    circuit = call(circuit, "HTTP 503")
    assert (circuit.phase, circuit.until_ms, circuit.error) == (Phase.OPEN, 10_000, "HTTP 503")
    assert admit(circuit) is None


def test_one_canary_goes_first() -> None:
    circuit = opened()
    assert not probe_due(circuit, 9_999)
    assert probe_due(circuit, 10_000)
    canary = admit(probing(circuit))
    assert canary is not None
    assert admit(canary) is None


def test_a_failing_canary_opens_it_again() -> None:
    circuit = call(probing(opened()), "still down", now_ms=10_000)
    assert (circuit.phase, circuit.until_ms) == (Phase.OPEN, 20_000)


def test_a_canary_that_was_not_made_leaves_its_place() -> None:
    canary = admit(probing(opened()))
    assert canary is not None
    assert admit(released(canary, canary.generation)) is not None


def test_calls_come_back_in_growing_cohorts() -> None:
    circuit = call(probing(opened()), None)
    cohorts = []
    while circuit.phase is not Phase.CLOSED:
        cohorts.append(circuit.cohort)
        at_once = circuit
        while (more := admit(at_once)) is not None:
            at_once = more
        assert at_once.in_flight == circuit.cohort
        generation = at_once.generation
        for _ in range(circuit.cohort):
            at_once = settled(at_once, BREAKER, generation, None, 0)
        circuit = at_once
    assert cohorts == [2, 4, 8, 16, 32]
    assert (cohorts[0], cohorts[-1]) == (FIRST_COHORT, LAST_COHORT)
    assert circuit == replace(CLOSED, generation=circuit.generation)


def test_one_failure_in_a_cohort_opens_it_again() -> None:
    circuit = call(call(probing(opened()), None), None)
    assert (circuit.phase, circuit.succeeded) == (Phase.RECOVERING, 1)
    assert call(circuit, "down again").phase is Phase.OPEN


def test_answers_of_calls_from_before_say_nothing() -> None:
    old = admit(CLOSED)
    assert old is not None
    circuit = probing(opened())
    assert settled(circuit, BREAKER, old.generation, None, 0) == circuit
    assert settled(circuit, BREAKER, old.generation, "late failure", 0) == circuit
    assert released(circuit, old.generation) == circuit


@given(st.lists(st.tuples(st.sampled_from(("ok", "fail", "admit", "release", "probe")), st.integers(0, 20_000))))
def test_never_more_calls_than_the_phase_allows(steps: list[tuple[str, int]]) -> None:
    circuit, flying, now = CLOSED, [], 0
    for action, wait in steps:
        now += wait
        before = circuit
        if action == "admit" and (admitted := admit(circuit)) is not None:
            circuit = admitted
            flying.append(circuit.generation)
        elif action == "probe" and probe_due(circuit, now):
            circuit = probing(circuit)
        elif action in ("ok", "fail") and flying:
            circuit = settled(circuit, BREAKER, flying.pop(0), "error" if action == "fail" else None, now)
        elif action == "release" and flying:
            circuit = released(circuit, flying.pop(0))
        current = sum(generation == circuit.generation for generation in flying)
        allowed = {Phase.OPEN: 0, Phase.PROBING: 1, Phase.RECOVERING: circuit.cohort}.get(circuit.phase, current)
        assert current <= allowed
        if circuit.phase is not Phase.CLOSED:
            assert circuit.in_flight == current
        assert circuit.generation >= before.generation
        assert (circuit.phase, circuit.cohort) == (
            before.phase,
            before.cohort,
        ) or circuit.generation > before.generation
