"""The saga worker's Prometheus metrics."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from marty_msf.core.saga.breaker import Circuit, Phase
from marty_msf.core.saga.diagnosis import Cause
from marty_msf.core.saga.instance import LIVE, State
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.memory import Live

#: Upper bounds in milliseconds of the durations kept for p95; one more bucket counts what is longer.
BOUNDS_MS: Final = (5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 7500, 10_000,
                    15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000)  # fmt: skip

_BREAKER_VALUES: Final[Mapping[Phase, int]] = {Phase.CLOSED: 0, Phase.PROBING: 1, Phase.RECOVERING: 1, Phase.OPEN: 2}


class SagaMetrics:
    """Counts of this process; global numbers are in `/status`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ended = Counter(
            "marty_saga_instances_ended",
            "Instances that ended or were parked in this process.",
            ["state"],
            registry=registry,
        )
        self._ended = {state: ended.labels(state.value) for state in State if state not in LIVE}
        self.live = Gauge("marty_saga_live_instances", "Live instances in this process's memory.", registry=registry)
        self.lanes = Gauge("marty_saga_lanes", "Lanes this process owns.", registry=registry)
        self._breaker = Gauge(
            "marty_saga_breaker_state",
            "Circuit breaker of a service as this process sees it: 0 closed, 1 half open, 2 open.",
            ["service"],
            registry=registry,
        )
        stuck = Gauge(
            "marty_saga_stuck_instances",
            "Live instances of this process without progress for longer than stuckAfterSeconds, by what they wait for.",
            ["cause"],
            registry=registry,
        )
        self._stuck = {cause: stuck.labels(cause.value) for cause in Cause}
        self.counts = [0] * (len(BOUNDS_MS) + 1)

    def ended(self, live: Live) -> None:
        """An instance ended or was parked."""
        self._ended[live.instance.state].inc()
        self.counts[bisect_left(BOUNDS_MS, now_ms() - live.started_ms)] += 1

    def stuck(self, causes: Mapping[Cause, int]) -> None:
        """What is stuck now."""
        for cause, gauge in self._stuck.items():
            gauge.set(causes.get(cause, 0))

    def breakers(self, circuits: Mapping[str, Circuit]) -> None:
        """How the breakers stand now."""
        for service, circuit in circuits.items():
            self._breaker.labels(service).set(_BREAKER_VALUES[circuit.phase])
