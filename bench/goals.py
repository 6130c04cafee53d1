"""Whether the goals of a benchmark are met, by the medians of its rounds. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.rows import Row, middle, ratio

OURS: Final = "marty"
OURS_HTTP: Final = "marty http"
BARE: Final = "bare http client"

LEAST_SAGAS: Final = 8_000
#: How many times as many sagas as a peer, where its steps are as durable as ours.
LEAST_RATIOS: Final[Mapping[str, float]] = {"dbos": 50, "temporal": 50, "river": 50, "restate": 15}
MOST_P99_MS: Final = 50
MOST_ALONE_MS: Final = 4
MOST_OF_BARE: Final = 1.5
#: Three steps, and two undos for one saga in twenty.
CALLS_PER_SAGA: Final = 3.1


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: `found` says what was measured."""

    name: str
    found: str
    met: bool

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"GOAL {self.name}: {self.found}: {'met' if self.met else 'short'}"


def goal_a(rows: Sequence[Row]) -> list[Goal]:
    """Goals a and a2; those of contenders that did not run are left out."""
    goals = []
    rate = middle(rows, OURS, "throughput")
    for peer, least in LEAST_RATIOS.items():
        times = ratio(rows, "throughput", OURS, peer)
        if rate is not None and times is not None:
            found = f"{rate:,.0f} sagas/s, {times:.1f}x {peer} (wanted {LEAST_SAGAS:,} and {least:.0f}x)"
            goals.append(Goal("a", found, rate >= LEAST_SAGAS and times >= least))
    p99, half = middle(rows, OURS, "half rate p99"), middle(rows, OURS, "half rate")
    if p99 is not None and half is not None:
        found = f"p99 {p99:.1f} ms at {half:,.0f} sagas/s, half of its rate (wanted {MOST_P99_MS} ms)"
        goals.append(Goal("a", found, p99 < MOST_P99_MS))
    alone = middle(rows, OURS, "alone p50")
    if alone is not None:
        goals.append(Goal("a", f"one saga alone {alone:.2f} ms (wanted {MOST_ALONE_MS} ms)", alone <= MOST_ALONE_MS))
    http, times = middle(rows, OURS_HTTP, "throughput"), ratio(rows, "throughput", BARE, OURS_HTTP)
    if http is not None and times is not None:
        of_bare = times / CALLS_PER_SAGA
        found = f"{http:,.0f} sagas/s over HTTP, the bare client {of_bare:.2f}x as many calls (wanted {MOST_OF_BARE}x)"
        goals.append(Goal("a2", found, of_bare <= MOST_OF_BARE))
    return goals
