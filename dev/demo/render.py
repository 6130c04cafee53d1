"""How the demo's result looks, for people and as JSON. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from dev.demo.checks import Check
from dev.demo.killing import Killed
from dev.demo.load import Latency

#: The median from POST /orders to the read model that the demo promises.
MEDIAN_LIMIT_MS: Final = 1000.0
IDS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo found out."""

    cluster: str
    orders_placed: int
    killed: Killed
    repeated_messages: int
    #: None when some of the paced orders never reached the read model.
    latency: Latency | None
    #: Workers that ended although the demo did not kill them; there must be none.
    crashed: tuple[str, ...]
    checks: tuple[Check, ...]
    resources: str
    shop_address: str

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks) and is_fast(self.latency) and not self.crashed


def is_fast(latency: Latency | None) -> bool:
    return latency is not None and latency.median_ms <= MEDIAN_LIMIT_MS


def as_text(report: Report) -> str:
    killed = report.killed
    lines = [
        report.resources.strip(),
        "",
        f"killed with -9 while {killed.active_before} sagas were active ({killed.active_after} right after): "
        + ", ".join(killed.pods),
        f"messages that Kafka got twice because of it: {report.repeated_messages}",
        *(f"a worker ended by itself: {line}" for line in report.crashed),
        latency_line(report.latency),
        "",
        *check_table(report.checks),
        "",
        f"The shop runs at {report.shop_address}; try: kubectl edit saga order-processing -n shop",
    ]
    return "\n".join(lines)


def latency_line(latency: Latency | None) -> str:
    title = "POST /orders to the read model at 2 orders/s"
    if latency is None:
        return f"{title}: NOT MEASURED, some orders never got there"
    verdict = "ok" if is_fast(latency) else f"TOO SLOW (the limit is {MEDIAN_LIMIT_MS:.0f} ms)"
    figures = f"p95 {latency.p95_ms:.0f} ms, longest {latency.longest_ms:.0f} ms"
    return f"{title}: median {latency.median_ms:.0f} ms {verdict}, {figures}"


def check_table(checks: Sequence[Check]) -> list[str]:
    """One aligned line per check; under a failed one the ids that differ."""
    rows = [("check", "expected", "found", "")]
    rows += [(check.name, check.expected, check.found, "ok" if check.ok else "DIFFERENT") for check in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["   ".join([*(row[n].ljust(widths[n]) for n in range(3)), row[3]]).rstrip() for row in rows]
    for index in range(len(checks), 0, -1):
        lines[index : index + 1] = [lines[index], *_differing(checks[index - 1])]
    return lines


def _differing(check: Check) -> list[str]:
    shown = [f"    {one}" for one in check.differing[:IDS_SHOWN]]
    more = len(check.differing) - len(shown)
    return [*shown, f"    and {more} more"] if more > 0 else shown


def as_json(report: Report) -> str:
    body = asdict(report) | {
        "checks": [asdict(check) | {"ok": check.ok} for check in report.checks],
        "ok": report.ok,
    }
    return json.dumps(body, indent=2)
