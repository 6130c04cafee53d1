"""The saga worker's Prometheus metrics."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from marty_msf.core.saga.breaker import Circuit, Phase
from marty_msf.core.saga.diagnosis import Cause
from marty_msf.core.saga.instance import LIVE, State
from marty_msf.worker.saga.calling.call_numbers import CallNumbers, Durations, buckets
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.memory import Live

#: Upper bounds in milliseconds of an instance's duration; one more bucket counts what is longer.
BOUNDS_MS: Final = (5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 7500, 10_000,
                    15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000)  # fmt: skip

_BREAKER_VALUES: Final[Mapping[Phase, int]] = {Phase.CLOSED: 0, Phase.PROBING: 1, Phase.RECOVERING: 1, Phase.OPEN: 2}


class Ended(Collector):
    """How long instances took, by the state they ended in, or were parked in, in this process."""

    def __init__(self) -> None:
        self._by_state = {state: Durations(len(BOUNDS_MS)) for state in State if state not in LIVE}

    def ended(self, live: Live) -> None:
        """An instance ended or was parked. On the hot path, hence no Prometheus object."""
        taken_ms = now_ms() - live.started_ms
        cell = self._by_state[live.instance.state]
        cell.counts[bisect_left(BOUNDS_MS, taken_ms)] += 1
        cell.seconds += taken_ms / 1000

    @property
    def counts(self) -> list[int]:
        """By bucket of BOUNDS_MS, whatever the state."""
        return [sum(column) for column in zip(*(it.counts for it in self._by_state.values()), strict=True)]

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        ended = CounterMetricFamily(
            "marty_saga_instances_ended", "Instances that ended or were parked in this process.", labels=["state"]
        )
        durations = HistogramMetricFamily(
            "marty_saga_duration_seconds",
            "Time from an instance's start until it ended or was parked, in this process.",
            labels=["state"],
        )
        for state, cell in self._by_state.items():
            ended.add_metric([state.value], sum(cell.counts))
            durations.add_metric(
                [state.value], buckets([bound / 1000 for bound in BOUNDS_MS], cell.counts), cell.seconds
            )
        yield ended
        yield durations


class HistoryNumbers:
    """What this process removed as the janitor of the database, of all its sagas."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.instances = Counter(
            "marty_saga_history_instances_removed",
            "Ended instances, of any saga of the database, that this process removed after their retention.",
            registry=registry,
        )
        self.partitions = Counter(
            "marty_saga_history_partitions",
            "Partitions of journals and contexts that this process emptied (rotate) or dropped (drop).",
            ["step"],
            registry=registry,
        )


class SagaMetrics:
    """Counts of this process; global numbers are in `/status`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ended = Ended()
        registry.register(self.ended)
        self.calls = CallNumbers()
        registry.register(self.calls)
        self.history = HistoryNumbers(registry)
        self.live = Gauge("marty_saga_live_instances", "Live instances in this process's memory.", registry=registry)
        self.lanes = Gauge("marty_saga_lanes", "Lanes this process owns.", registry=registry)
        self.open_commands = Gauge(
            "marty_saga_open_commands",
            "Calls over Kafka of this process that wait to be sent or for their replies.",
            registry=registry,
        )
        self.parked_oldest = Gauge(
            "marty_saga_parked_oldest_seconds",
            "Longest time that an instance of this saga has been parked with nobody touching it; the same in every pod.",
            registry=registry,
        )
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

    def stuck(self, causes: Mapping[Cause, int]) -> None:
        """What is stuck now."""
        for cause, gauge in self._stuck.items():
            gauge.set(causes.get(cause, 0))

    def breakers(self, circuits: Mapping[str, Circuit]) -> None:
        """How the breakers stand now."""
        for service, circuit in circuits.items():
            self._breaker.labels(service).set(_BREAKER_VALUES[circuit.phase])
