"""Numbers of calls in Prometheus' form."""

import pytest
from prometheus_client import CollectorRegistry

from marty_msf.core.saga.events import Failed, Rejected, Succeeded
from marty_msf.core.saga.instance import Call
from marty_msf.core.saga.outcome import Outcome
from marty_msf.worker.saga.calling.call_numbers import OTHERS, STEPS_LIMIT, CallNumbers, buckets

FIRST, AGAIN = Call(0, False, 1000, None, True), Call(0, False, 1000, None, False)


def counted(*calls: tuple[str, Call, Outcome, float]) -> CollectorRegistry:
    numbers, registry = CallNumbers(), CollectorRegistry()
    registry.register(numbers)
    for call in calls:
        numbers.called(*call)
    return registry


def test_buckets_add_up() -> None:
    assert buckets((1, 2.5), [3, 0, 2]) == [("1.0", 3), ("2.5", 3), ("+Inf", 5)]


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Succeeded({}), "succeeded"),
        (Rejected("no", 0), "refused"),
        (Failed("429", False, 0), "failed"),
        (Failed("503", True, 0), "unknown"),
    ],
)
def test_calls_are_counted_by_their_outcome(outcome: Outcome, name: str) -> None:
    registry = counted(("charge", FIRST, outcome, 0.2), ("charge", FIRST, outcome, 400))
    labels = {"step": "charge", "direction": "do", "outcome": name}

    def bucket(le: str) -> float | None:
        return registry.get_sample_value("marty_saga_step_duration_seconds_bucket", {**labels, "le": le})

    assert [bucket(le) for le in ("0.1", "0.25", "300.0", "+Inf")] == [0, 1, 1, 2]
    assert registry.get_sample_value("marty_saga_step_duration_seconds_sum", labels) == 400.2


def test_only_calls_after_the_first_are_retries() -> None:
    ok = Succeeded({})
    registry = counted(("charge", FIRST, ok, 0.1), ("charge", AGAIN, ok, 0.1), ("charge", AGAIN, ok, 0.1))

    labels = {"step": "charge", "direction": "do"}
    assert registry.get_sample_value("marty_saga_step_retries_total", labels) == 2


def test_series_stay_bounded_whatever_steps_are_called() -> None:
    registry = counted(*((f"step_{number}", AGAIN, Succeeded({}), 0.1) for number in range(STEPS_LIMIT + 50)))

    labels = {"step": OTHERS, "direction": "do"}
    assert registry.get_sample_value("marty_saga_step_retries_total", labels) == 50
    assert registry.get_sample_value("marty_saga_step_duration_seconds_count", {**labels, "outcome": "succeeded"}) == 50
