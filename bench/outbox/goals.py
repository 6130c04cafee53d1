"""Whether the goals b, b2, b3 and B4 are met, by the medians of the rounds. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.goals import Goal
from bench.rows import Row, middle, ratio

OURS: Final = "marty"
DEBEZIUM: Final = ("debezium default", "debezium tuned")
FASTEST: Final = "debezium lowest latency"

LEAST_DRAIN: Final = 150_000
LEAST_RATIO: Final = 2
#: Rate -> (p50, p99) in milliseconds.
LIVE_MS: Final[Mapping[int, tuple[float, float]]] = {1_000: (2, 6), 5_000: (3, 10)}
URGENT_P99_MS: Final = 100
#: A backlog with urgent events and poison in it is drained at this part of its rate at least.
LEAST_UNDISTURBED: Final = 0.7
#: While a writer is left open the others' p99 may grow by this factor, or to the live goal.
MOST_HELD_UP: Final = 2


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Goals of what did not run are left out."""
    return [*_drain(rows), *_live(rows), *_urgent(rows), *_open_writer(rows)]


def _drain(rows: Sequence[Row]) -> list[Goal]:
    ours = middle(rows, OURS, "drain")
    theirs = {name: rate for name in DEBEZIUM if (rate := middle(rows, name, "drain")) is not None}
    if ours is None or not theirs:
        return []
    best = max(theirs, key=lambda name: theirs[name])
    times = ratio(rows, "drain", OURS, best)
    our_cpu, their_cpu = middle(rows, OURS, "drain cpu"), middle(rows, best, "drain cpu")
    if times is None or our_cpu is None or their_cpu is None:
        return []
    found = f"{ours:,.0f} events/s, {times:.1f}x {best} (wanted {LEAST_DRAIN:,} and {LEAST_RATIO}x)"
    cost = f"{our_cpu:.1f} µs CPU an event in all processes, {best} {their_cpu:.1f} µs (wanted less)"
    return [Goal("b", found, ours >= LEAST_DRAIN and times >= LEAST_RATIO), Goal("b", cost, our_cpu < their_cpu)]


def _live(rows: Sequence[Row]) -> list[Goal]:
    found = []
    for rate, (most_p50, most_p99) in LIVE_MS.items():
        p50, p99 = middle(rows, OURS, f"live {rate} p50"), middle(rows, OURS, f"live {rate} p99")
        if p50 is None or p99 is None:
            continue
        words = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms at {rate:,} events/s (wanted {most_p50:.0f} and {most_p99:.0f} ms)"
        found.append(Goal("b2", words, p50 <= most_p50 and p99 <= most_p99))
        ours, theirs = middle(rows, OURS, f"live {rate} cpu"), middle(rows, FASTEST, f"live {rate} cpu")
        if ours is not None and theirs is not None:
            words = f"{ours:.0f} µs CPU an event at {rate:,} events/s, {FASTEST} {theirs:.0f} µs (wanted not more)"
            found.append(Goal("b2", words, ours <= theirs))
    return found


def _urgent(rows: Sequence[Row]) -> list[Goal]:
    p99, rate = middle(rows, OURS, "urgent p99"), middle(rows, OURS, "urgent drain")
    if p99 is None or rate is None:
        return []
    found = [
        Goal("b3", f"p99 of high events under backlog {p99:.0f} ms (wanted {URGENT_P99_MS} ms)", p99 < URGENT_P99_MS)
    ]
    if (part := middle(rows, OURS, "urgent share")) is not None:
        words = f"{rate:,.0f} events/s with poison and high events among them, {part:.2f} of the rate without (wanted {LEAST_UNDISTURBED})"
        found.append(Goal("b3", words, part >= LEAST_UNDISTURBED))
    return found


def _open_writer(rows: Sequence[Row]) -> list[Goal]:
    before, during = middle(rows, OURS, "open writer before p99"), middle(rows, OURS, "open writer during p99")
    own = middle(rows, OURS, "open writer own event")
    if before is None or during is None or own is None:
        return []
    words = (
        f"p99 {during:.1f} ms while a writer is left open, {before:.1f} ms before (wanted {MOST_HELD_UP}x at most);"
        f" its own event {own:.0f} ms after its commit"
    )
    return [Goal("B4", words, during <= max(MOST_HELD_UP * before, LIVE_MS[5_000][1]))]
