"""From what was observed to the four conditions. Pure; the only place that decides what Ready means.

Ready and ConfigApplied are positive; Reconciling and Stalled are abnormal when True, as kstatus (Flux, Helm) reads them.
A Paused or Stopped resource is Ready: it is exactly as asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from marty_msf.core.resources.spec import RunState
from marty_msf.core.worker_status import STALLED_REASONS, Problem, ProblemReason
from marty_operator.observation import MigrationPhase, Observed, Reason, Worker
from marty_operator.resource import Manifest

Truth = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT: Final = 2048
#: kubectl wait --for=condition=… and alerts rely on these names.
READY: Final = "Ready"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"
CONFIG_APPLIED: Final = "ConfigApplied"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition without its times."""

    type: str
    status: Truth
    reason: str
    message: str


def verdicts(observed: Observed) -> list[Verdict]:
    """The conditions that hold, always all four, in one order."""
    return [ready(observed), reconciling(observed), stalled(observed), config_applied(observed)]


def first_sight() -> list[Verdict]:
    """Written before anything else is done, so that nobody takes a resource without conditions for a finished one."""
    message = "The operator has seen the resource."
    return [
        Verdict(READY, "Unknown", Reason.PENDING, message),
        Verdict(RECONCILING, "True", Reason.PENDING, message),
        Verdict(STALLED, "False", Reason.PROGRESSING, message),
        Verdict(CONFIG_APPLIED, "Unknown", Reason.PENDING, message),
    ]


def ready(observed: Observed) -> Verdict:
    """True as long as a good revision runs and does what it asks for (or none is asked for), whatever else is wrong."""
    blocker, working = observed.blocker, observed.working
    if observed.replicas == 0 and observed.revision:
        return _nothing_runs(observed)
    if working:
        return _works(observed)
    if blocker:
        return Verdict(READY, "False", blocker.reason, blocker.message)
    problem = _first_blocking(observed.workers)
    if observed.migration.phase is MigrationPhase.FAILED and (
        problem is None or problem.reason in (ProblemReason.SCHEMA_OUTDATED, ProblemReason.STARTING)
    ):
        return Verdict(READY, "False", Reason.MIGRATION_FAILED, _migration_failed(observed))
    if problem:
        return Verdict(READY, "False", problem.reason, problem.message)
    return _not_yet(observed)


def reconciling(observed: Observed) -> Verdict:
    """True while the operator or Kubernetes is still moving towards the spec, or waits for something to appear."""
    blocker = observed.blocker
    if blocker:
        return Verdict(RECONCILING, "False" if blocker.stalled else "True", blocker.reason, blocker.message)
    if observed.migration.phase is MigrationPhase.FAILED:
        return Verdict(RECONCILING, "True", Reason.MIGRATION_FAILED, _migration_failed(observed))
    if observed.migration.phase is MigrationPhase.RUNNING:
        return Verdict(RECONCILING, "True", Reason.MIGRATING, "The migration Job runs.")
    if not observed.rolled_out:
        return Verdict(RECONCILING, "True", Reason.ROLLING_OUT, _progress(observed))
    return Verdict(RECONCILING, "False", Reason.SETTLED, _progress(observed))


def stalled(observed: Observed) -> Verdict:
    """True when time alone will not help: a person has to change something."""
    if observed.blocker and observed.blocker.stalled:
        message = observed.blocker.message
        if observed.working:
            message += f"; revision {observed.revision} keeps running."
        return Verdict(STALLED, "True", observed.blocker.reason, message)
    problem = next((p for w in observed.workers for p in w.problems if p.reason in STALLED_REASONS), None)
    if problem:
        return Verdict(STALLED, "True", problem.reason, problem.message)
    return Verdict(STALLED, "False", Reason.PROGRESSING, "Nothing needs a person.")


def config_applied(observed: Observed) -> Verdict:
    """True when every wanted worker says that it runs the wanted revision."""
    blocker = observed.blocker
    if blocker:
        return Verdict(CONFIG_APPLIED, "False", blocker.reason, blocker.message)
    if observed.silent:
        names = ", ".join(worker.pod.name for worker in observed.silent)
        message = f"No answer on /status from {names}: allow the operator to reach port 8080 of the worker pods."
        return Verdict(CONFIG_APPLIED, "Unknown", Reason.WORKERS_UNREACHABLE, message)
    if not observed.rolled_out:
        return Verdict(CONFIG_APPLIED, "False", Reason.ROLLING_OUT, _progress(observed))
    if observed.replicas == 0:
        message = f"No worker runs; revision {observed.revision} runs when one is started."
        return Verdict(CONFIG_APPLIED, "True", _idle(observed), message)
    return Verdict(CONFIG_APPLIED, "True", Reason.ALL_WORKERS, _progress(observed))


def merged(
    wanted: Sequence[Verdict], previous: Sequence[Mapping[str, Any]], generation: int, now: str
) -> list[Manifest]:
    """As status.conditions: a time changes only when a condition's status does."""
    before = {condition.get("type"): condition for condition in previous}
    result = []
    for verdict in wanted:
        old = before.get(verdict.type, {})
        kept = old.get("lastTransitionTime") if old.get("status") == verdict.status else None
        result.append(
            {
                "type": verdict.type,
                "status": verdict.status,
                "reason": str(verdict.reason),
                "message": verdict.message[:MESSAGE_LIMIT],
                "lastTransitionTime": kept or now,
                "observedGeneration": generation,
            }
        )
    return result


def _works(observed: Observed) -> Verdict:
    if observed.state is RunState.PAUSED and observed.blocker is None:
        return Verdict(READY, "True", Reason.PAUSED, "The workers are paused as asked; all work waits, none is lost.")
    if observed.unmet:
        return Verdict(READY, "False", observed.unmet.reason, observed.unmet.message)
    message = f"{len(observed.working)} of {observed.replicas} workers are ready."
    problem = next((p for w in observed.workers for p in w.problems), None)
    if problem:
        message += f" {problem.reason}: {problem.message}"
    return Verdict(READY, "True", Reason.WORKERS_READY, message)


def _nothing_runs(observed: Observed) -> Verdict:
    if observed.workers:
        return Verdict(READY, "True", _idle(observed), f"{len(observed.workers)} workers are still stopping.")
    return Verdict(READY, "True", _idle(observed), "No worker runs, as asked; all work waits, none is lost.")


def _idle(observed: Observed) -> Reason:
    return Reason.STOPPED if observed.state is RunState.STOPPED else Reason.SCALED_TO_ZERO


def _not_yet(observed: Observed) -> Verdict:
    trouble = observed.trouble or next(
        (f"pod {w.pod.name}: {w.pod.trouble}" for w in observed.workers if w.pod.trouble), None
    )
    if trouble:
        return Verdict(READY, "False", Reason.PODS_FAILING, trouble)
    if observed.migration.phase is MigrationPhase.RUNNING:
        return Verdict(READY, "False", Reason.MIGRATING, "The migration Job runs; the workers wait for it.")
    return Verdict(READY, "False", Reason.WORKERS_STARTING, _progress(observed))


def _progress(observed: Observed) -> str:
    return f"Revision {observed.revision} runs in {observed.current} of {observed.replicas} workers."


def _migration_failed(observed: Observed) -> str:
    job = observed.migration.job
    return (
        f"The migration Job {job} failed and is tried again: {observed.migration.message or 'no reason given'}: "
        f"`kubectl logs job/{job}` has Postgres's own words."
    )


def _first_blocking(workers: Sequence[Worker]) -> Problem | None:
    return next((problem for worker in workers if (problem := worker.blocking)), None)
