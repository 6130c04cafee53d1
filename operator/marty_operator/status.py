"""From what was observed to the status subresource, and whether it is worth a write. Pure.

Numbers are quantized, so that a resource at rest causes no write at all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from marty_msf.core.quantile import quantile
from marty_msf.core.resources.kinds import KINDS, Role
from marty_msf.core.worker_status import OpenWriter, ProjectionTotals, RelayTotals, SagaTotals, WorkerStatus
from marty_operator.conditions import Verdict, merged
from marty_operator.observation import Observed
from marty_operator.resource import Key, Manifest

#: Shortest time between two writes that change numbers only; transitions are written at once.
NUMBERS_SECONDS: Final = 5.0
LAST_ERROR_LIMIT: Final = 1024
REVISIONS_LIMIT: Final = 16
OPEN_BREAKERS_LIMIT: Final = 1024
#: Causes of dead letters, the most frequent first, and what is shown of their messages.
GROUPS_LIMIT: Final = 10
GROUP_MESSAGE_LIMIT: Final = 300
#: A writer that is open for longer is told of.
OPEN_WRITER_SECONDS: Final = 60
#: What a resource says about rates when no worker answers.
_SILENT: Final[Mapping[Role, Manifest]] = {
    Role.SAGA: {},
    Role.RELAY: {"eventsPerSecond": 0, "rate": "0/s", "errorRate": 0, "oldestOpenWriter": ""},
    Role.PROJECTION: {},
}
_STRUCTURE: Final = (
    "observedGeneration",
    "replicas",
    "readyReplicas",
    "selector",
    "appliedRevision",
    "revisionReplicas",
)


def build(key: Key, observed: Observed, wanted: Sequence[Verdict], previous: Mapping[str, Any], now: str) -> Manifest:
    """The whole status. While no worker answers, the last known counts stay."""
    reports = [worker.report for worker in observed.workers if worker.report is not None]
    return {
        **_numbers(KINDS[key.kind].role, reports, previous),
        "observedGeneration": observed.generation,
        "conditions": merged(wanted, previous.get("conditions", ()), observed.generation, now),
        "replicas": len(observed.workers),
        "readyReplicas": len(observed.working),
        "selector": observed.selector,
        "appliedRevision": observed.revision,
        "revisionReplicas": observed.current if observed.revision else 0,
    }


def write_delay(previous: Mapping[str, Any], new: Mapping[str, Any], since_last_write: float) -> float | None:
    """Seconds to wait before `new` is written: 0 at once, None not at all. Messages may hold numbers and wait with them."""
    if previous == new:
        return None
    if not previous or any(previous.get(field) != new.get(field) for field in _STRUCTURE):
        return 0.0
    if _states(previous) != _states(new):
        return 0.0
    return max(0.0, NUMBERS_SECONDS - since_last_write)


def transitions(previous: Mapping[str, Any], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The conditions whose status or reason changed: what people want to see as Events."""
    before = {c["type"]: (c["status"], c["reason"]) for c in previous.get("conditions", ())}
    return [c for c in new["conditions"] if before.get(c["type"]) != (c["status"], c["reason"])]


def new_causes(previous: Mapping[str, Any], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Groups of dead letters that were not there before.

    Of a full list one may come back that only others had pushed out: there a cause must also be younger than all of them.
    """
    before: Sequence[Mapping[str, Any]] = previous.get("deadLetterGroups", ())
    known = {group["cause"] for group in before}
    youngest = max((group["since"] for group in before), default="") if len(before) >= GROUPS_LIMIT else ""
    return [it for it in new.get("deadLetterGroups", ()) if it["cause"] not in known and it["since"] > youngest]


def p95_ms(reports: Sequence[WorkerStatus]) -> int:
    """The 95th percentile over all pods, from their histogram buckets, interpolated inside its bucket; 0 without data.

    Pods whose buckets differ (another release, during an upgrade) are left out.
    """
    bounds = next((r.local.duration_bucket_bounds_ms for r in reports if r.local.duration_bucket_bounds_ms), [])
    same = [r.local.duration_bucket_counts for r in reports if r.local.duration_bucket_bounds_ms == bounds]
    counts = [sum(column) for column in zip(*same, strict=False)]
    return _three_digits(quantile(0.95, bounds, counts)) if bounds else 0


def duration_text(milliseconds: float) -> str:
    """For people: 214ms, 1.2s, 38s, 4m10s, 3h12m."""
    if milliseconds < 1000:
        return f"{round(milliseconds)}ms"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def quantized_seconds(seconds: float) -> float:
    """Steps of 0.1 s below 10 s, of 1 s below a minute, of 10 s above."""
    if seconds < 10:
        return round(seconds, 1)
    return float(round(seconds)) if seconds < 60 else float(round(seconds, -1))


@dataclass(frozen=True, slots=True)
class _Newest:
    """Totals are global, so one answer is enough; the largest counter is the newest of them."""

    reports: Sequence[WorkerStatus]

    def saga(self) -> SagaTotals | None:
        found = [r.totals for r in self.reports if isinstance(r.totals, SagaTotals)]
        return max(found, key=_instances, default=None)

    def relay(self) -> RelayTotals | None:
        found = [r.totals for r in self.reports if isinstance(r.totals, RelayTotals)]
        return max(found, key=lambda t: t.published_total, default=None)

    def projection(self) -> ProjectionTotals | None:
        found = [r.totals for r in self.reports if isinstance(r.totals, ProjectionTotals)]
        return max(found, key=lambda t: t.processed_total, default=None)


def _numbers(role: Role, reports: Sequence[WorkerStatus], previous: Mapping[str, Any]) -> Manifest:
    newest = _Newest(reports)
    match role:
        case Role.SAGA:
            saga = newest.saga()
            found = _saga(saga, reports, previous) if saga else None
        case Role.RELAY:
            relay = newest.relay()
            found = _relay(relay) if relay else None
        case Role.PROJECTION:
            projection = newest.projection()
            found = _projection(projection) if projection else None
    if found is not None:
        return found
    return {**_kept(previous), **_SILENT[role]} if _kept(previous) else {}


def _instances(totals: SagaTotals) -> int:
    ended = totals.completed + totals.compensated + totals.failed + totals.cancelled
    return ended + totals.parked + totals.active


def _saga(totals: SagaTotals, reports: Sequence[WorkerStatus], previous: Mapping[str, Any]) -> Manifest:
    p95 = p95_ms(reports)
    return {
        "active": totals.active,
        "completed": totals.completed,
        "compensated": totals.compensated,
        "failed": totals.failed,
        "cancelled": totals.cancelled,
        "parked": totals.parked,
        **_stuck(reports, previous),
        "revisions": _revisions(reports, previous),
        "breakers": [{"service": name, "state": state.value} for name, state in sorted(totals.breakers.items())][:64],
        "openBreakers": ", ".join(sorted(totals.breakers))[:OPEN_BREAKERS_LIMIT],
        "averageDurationMs": _three_digits(totals.average_duration_ms),
        "p95DurationMs": p95,
        "p95": duration_text(p95) if p95 else "",
        "oldestActiveSeconds": int(quantized_seconds(totals.oldest_active_seconds)),
        "definitionRevision": totals.definition_revision,
        "lastError": (totals.last_error or "")[:LAST_ERROR_LIMIT],
    }


def _revisions(reports: Sequence[WorkerStatus], previous: Mapping[str, Any]) -> list[Manifest]:
    """Added up over the pods: an instance is in the memory of one of them only. Unchanged while no pod works on any."""
    known = [r.local.active_by_revision for r in reports if r.local.active_by_revision is not None]
    if not known:
        return list(previous.get("revisions", ()))
    active: Counter[str] = Counter()
    for counts in known:
        active.update(counts)
    busiest = sorted(active.items(), key=lambda item: (-item[1], item[0]))
    return [{"revision": revision, "active": count} for revision, count in busiest if count][:REVISIONS_LIMIT]


def _stuck(reports: Sequence[WorkerStatus], previous: Mapping[str, Any]) -> Manifest:
    """Added up over the pods as the revisions are; the diagnosis is that of the longest standstill."""
    known = [r.local.stuck for r in reports if r.local.stuck is not None]
    if not known:
        return {"stuck": previous.get("stuck", 0), "stuckDiagnosis": previous.get("stuckDiagnosis", "")}
    longest = min((it for it in known if it.count), key=lambda it: it.since_ms, default=None)
    return {"stuck": sum(it.count for it in known), "stuckDiagnosis": longest.diagnosis if longest else ""}


def _relay(totals: RelayTotals) -> Manifest:
    lag, rate = quantized_seconds(totals.lag_seconds), _rate(totals.events_per_second)
    return {
        "pending": totals.pending,
        "publishedTotal": totals.published_total,
        "eventsPerSecond": rate,
        "lagSeconds": _number(lag),
        "lag": duration_text(lag * 1000) if lag else "0s",
        "rate": f"{_number(rate)}/s",
        "oldestPendingSeconds": _number(quantized_seconds(totals.oldest_pending_seconds)),
        "failed": totals.failed_total,
        "errorRate": _number(round(totals.error_rate, 3)),
        "deadLettered": totals.dead,
        "deadLetteredTotal": totals.dead_total,
        "deadLetterGroups": [
            it.model_copy(update={"message": it.message[:GROUP_MESSAGE_LIMIT]}).model_dump(by_alias=True)
            for it in totals.dead_letter_groups[:GROUPS_LIMIT]
        ],
        "oldestOpenWriter": _open_writer(totals.oldest_open_writer),
    }


def _open_writer(writer: OpenWriter | None) -> str:
    """In whole minutes, so that one that stays open does not change the status all the time."""
    if writer is None or writer.seconds < OPEN_WRITER_SECONDS:
        return ""
    return f"{writer.name[:200]}, open for {duration_text(writer.seconds // 60 * 60_000)}"


def _projection(totals: ProjectionTotals) -> Manifest:
    return {
        "processedTotal": totals.processed_total,
        "duplicatesTotal": totals.duplicates_total,
        "lag": totals.lag,
        "lagSeconds": _number(quantized_seconds(totals.lag_seconds)),
    }


def _kept(previous: Mapping[str, Any]) -> Manifest:
    return {name: value for name, value in previous.items() if name not in _STRUCTURE and name != "conditions"}


def _states(status: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    fields = ("type", "status", "reason", "observedGeneration")
    return [tuple(condition.get(name) for name in fields) for condition in status.get("conditions", ())]


def _rate(events_per_second: float) -> float | int:
    return _number(round(events_per_second, 1)) if events_per_second < 10 else _three_digits(events_per_second)


def _three_digits(value: float) -> int:
    """Rounded to three significant digits: precise enough for people, coarse enough to stay the same."""
    whole = round(value)
    return round(whole, 3 - len(str(abs(whole)))) if whole >= 1000 else whole


def _number(value: float) -> float | int:
    """A whole float as an int: JSON from the API server comes back that way, and equal statuses must compare equal."""
    return int(value) if value == int(value) else value
