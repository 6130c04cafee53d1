"""How long the calls of each step took and how they ended: plain lists on the hot path, Prometheus' form only when it asks."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.instance import Call
from marty_msf.core.saga.outcome import Outcome

#: Upper bounds of a call's duration.
BOUNDS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: Names of steps that get series of their own, whatever earlier definitions and other people's code call their steps.
STEPS_LIMIT: Final = 128
OTHERS: Final = "_others"
_OUTCOMES: Final = {
    Succeeded: "succeeded",
    Unusable: "unusable",
    Rejected: "refused",
    Failed: "failed",
    Misconfigured: "misconfigured",
}
UNKNOWN: Final = "unknown"


class Durations:
    """One histogram."""

    __slots__ = ("counts", "seconds")

    def __init__(self, bounds: int) -> None:
        #: By bucket, the last one for what is longer than all bounds.
        self.counts = [0] * (bounds + 1)
        self.seconds = 0.0


class CallNumbers(Collector):
    """Of this process. `called` costs about half a microsecond."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, bool, type[Outcome], bool], Durations] = {}
        self._retries: dict[tuple[str, bool], int] = {}
        self._cached: dict[tuple[str, bool], int] = {}
        self._steps: set[str] = set()

    def called(self, step: str, call: Call, outcome: Outcome, seconds: float) -> None:
        """A call of a step was answered, or is known to have failed."""
        kind = outcome.__class__
        key = (step, call.undo, kind, kind is Failed and outcome.unknown)  # type: ignore[union-attr]
        cell = self._cells.get(key)
        if cell is None:
            key = (self._known(step), *key[1:])
            cell = self._cells.setdefault(key, Durations(len(BOUNDS_SECONDS)))
        cell.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        cell.seconds += seconds
        if not call.first:
            repeated = (key[0], call.undo)
            self._retries[repeated] = self._retries.get(repeated, 0) + 1

    def cached(self, step: str, *, hit: bool) -> None:
        """A cached step was looked up."""
        key = (self._known(step), hit)
        self._cached[key] = self._cached.get(key, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        durations = HistogramMetricFamily(
            "marty_saga_step_duration_seconds",
            "Calls of a step by how they ended in this process: succeeded, unusable (its answer cannot be kept), refused,"
            " failed (had no effect), unknown (may have had it), misconfigured.",
            labels=["step", "direction", "outcome"],
        )
        for (step, undo, kind, unknown), cell in list(self._cells.items()):
            labels = [step, _direction(undo), UNKNOWN if unknown else _OUTCOMES[kind]]
            durations.add_metric(labels, buckets(BOUNDS_SECONDS, cell.counts), cell.seconds)
        yield durations
        retries = CounterMetricFamily(
            "marty_saga_step_retries",
            "Calls of a step that were not the first one of their operation, in this process.",
            labels=["step", "direction"],
        )
        for (step, undo), count in list(self._retries.items()):
            retries.add_metric([step, _direction(undo)], count)
        yield retries
        cached = CounterMetricFamily(
            "marty_saga_step_cache_lookups",
            "Calls of steps with a cache in this process: answered by it (hit), or made (miss).",
            labels=["step", "result"],
        )
        for (step, hit), count in list(self._cached.items()):
            cached.add_metric([step, "hit" if hit else "miss"], count)
        yield cached

    def _known(self, step: str) -> str:
        if step not in self._steps:
            if len(self._steps) >= STEPS_LIMIT:
                return OTHERS
            self._steps.add(step)
        return step


def buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """As Prometheus wants them: so many were at most so long."""
    return list(zip([*map(str, map(float, bounds)), "+Inf"], accumulate(counts), strict=True))


def _direction(undo: bool) -> str:
    return "undo" if undo else "do"
