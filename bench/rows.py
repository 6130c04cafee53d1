"""The raw results of a benchmark: one row per contender, round and metric."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one round."""

    contender: str
    settings: Mapping[str, object]
    round: int
    metric: str
    value: float
    unit: str
    #: CPU-seconds by process while it was measured; empty where that says nothing.
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    #: What was counted afterwards, and what was found. A run that fails its verification leaves no rows.
    verified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """All rows of one benchmark, and where and when they were measured."""

    measured_at: str
    machine: Mapping[str, object]
    quick: bool
    rows: Sequence[Row]
    #: How the run ended: the lines `GOAL …`.
    goals: Sequence[str]

    def write(self, name: str) -> Path:
        """To bench/results/<name>.json."""
        path = RESULTS / f"{name}.json"
        head = {"measured_at": self.measured_at, "machine": self.machine, "quick": self.quick, "goals": self.goals}
        rows = ",\n".join("    " + json.dumps(asdict(row), ensure_ascii=False) for row in self.rows)
        path.write_text(json.dumps(head, indent=2, ensure_ascii=False)[:-2] + f',\n  "rows": [\n{rows}\n  ]\n}}\n')
        return path


def results(rows: Sequence[Row], goals: Sequence[str], *, quick: bool, load_before: float) -> Results:
    """Of a run on this machine that ends now; `load_before` is the load average by others before it began."""
    machine = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(load_before, 1),
    }
    return Results(datetime.now(UTC).isoformat(timespec="seconds"), machine, quick, rows, goals)


def read(name: str) -> Results:
    """What `write` wrote."""
    form = json.loads((RESULTS / f"{name}.json").read_text())
    rows = [Row(**row) for row in form.pop("rows")]
    return Results(rows=rows, **form)


def values(rows: Iterable[Row], contender: str, metric: str) -> dict[int, float]:
    """Round to value."""
    return {row.round: row.value for row in rows if row.contender == contender and row.metric == metric}


def middle(rows: Iterable[Row], contender: str, metric: str) -> float | None:
    """The median over the rounds; None when it was not measured."""
    found = values(rows, contender, metric)
    return median(found.values()) if found else None


def ratio(rows: Sequence[Row], metric: str, of: str, to: str) -> float | None:
    """The median of each round's ratio, in which the machine's drift cancels out; None without common rounds."""
    ours, theirs = values(rows, of, metric), values(rows, to, metric)
    common = ours.keys() & theirs.keys()
    return median(ours[number] / theirs[number] for number in common) if common else None
