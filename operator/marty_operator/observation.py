"""What is seen of one resource in the cluster, as values: its pods, their reports, its migration, what blocks it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from marty_msf.core.resources.spec import RunState
from marty_msf.core.worker_status import Problem, WorkerStatus
from marty_operator.plan.labels import KIND, NAME
from marty_operator.resource import Manifest

#: A container that waits for one of these is only starting.
_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})


class Reason(StrEnum):
    """Reasons that the operator itself gives; those of workers are `core.worker_status.ProblemReason`.

    Both are stable within an API version: alerts and scripts may depend on them.
    """

    #: The operator has seen the resource and has not finished its first pass.
    PENDING = "Pending"
    #: At least one ready worker runs a good revision.
    WORKERS_READY = "WorkersReady"
    #: The workers are healthy and, as asked, take no new work.
    PAUSED = "Paused"
    #: As asked, no worker runs.
    STOPPED = "Stopped"
    #: `spec.replicas` is 0: as asked, no worker runs.
    SCALED_TO_ZERO = "ScaledToZero"
    #: Worker pods are being started.
    WORKERS_STARTING = "WorkersStarting"
    #: A worker pod cannot be scheduled, pulled or kept running; the message has Kubernetes's own words.
    PODS_FAILING = "PodsFailing"
    #: The operator cannot read the workers' reports over the pod network: allow it to reach port 8080.
    WORKERS_UNREACHABLE = "WorkersUnreachable"
    #: The migration Job is bringing the database to the schema of this release.
    MIGRATING = "Migrating"
    #: The migration Job failed; it is tried again by itself.
    MIGRATION_FAILED = "MigrationFailed"
    #: The spec can never run as written; the last good configuration, if any, keeps running.
    INVALID_SPEC = "InvalidSpec"
    #: A referenced Secret does not exist.
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    #: A referenced Secret lacks the key.
    SECRET_KEY_MISSING = "SecretKeyMissing"  # noqa: S105
    #: The ConfigMap with the user's code does not exist.
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    #: The API server refuses an object of the resource (quota, policy, permissions).
    APPLY_REFUSED = "ApplyRefused"
    #: An object that the resource needs exists already and belongs to somebody else.
    NAME_TAKEN = "NameTaken"
    #: Not all workers run the wanted revision yet.
    ROLLING_OUT = "RollingOut"
    #: All wanted workers run the wanted revision.
    ALL_WORKERS = "AllWorkers"
    #: Nothing is left to do.
    SETTLED = "Settled"
    #: Nothing needs a person.
    PROGRESSING = "Progressing"


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why the resource's objects cannot be brought up to its spec now.

    `stalled`: only an edit of the resource or of its surroundings by a person helps.
    """

    reason: Reason
    message: str
    stalled: bool = False


class MigrationPhase(StrEnum):
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Migration:
    """State of the Job that this resource's workers wait for; a failed one has its name and Kubernetes's own words."""

    phase: MigrationPhase
    message: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A worker pod that is not being deleted. `trouble` is Kubernetes's own reason and message for a pod that cannot run."""

    namespace: str
    kind: str
    resource: str
    name: str
    ip: str
    ready: bool
    trouble: str = ""

    @classmethod
    def parse(cls, manifest: Mapping[str, Any]) -> Self | None:
        """None for a pod that is going away or is no worker."""
        metadata, status = manifest["metadata"], manifest.get("status") or {}
        labels = metadata.get("labels") or {}
        finished = status.get("phase") in ("Succeeded", "Failed") and status.get("reason") != "Evicted"
        if "deletionTimestamp" in metadata or KIND not in labels or NAME not in labels or finished:
            return None
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        return cls(
            namespace=metadata["namespace"],
            kind=labels[KIND],
            resource=labels[NAME],
            name=metadata["name"],
            ip=status.get("podIP", ""),
            ready=conditions.get("Ready", {}).get("status") == "True",
            trouble=_trouble(status, conditions.get("PodScheduled", {})),
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """A pod with what its process says; `report` None: it did not answer."""

    pod: Pod
    report: WorkerStatus | None

    @property
    def blocking(self) -> Problem | None:
        """The first problem that keeps this worker from all work."""
        return next((p for p in self.problems if p.blocking), None)

    @property
    def problems(self) -> list[Problem]:
        return self.report.problems if self.report else []

    def runs(self, revision: str) -> bool:
        return self.report is not None and self.report.revision == revision


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a resource's status is made of.

    `revision` is empty when there has never been a good one; `trouble` is why Kubernetes cannot make the pods.
    """

    generation: int
    state: RunState
    replicas: int
    revision: str
    selector: str
    workers: tuple[Worker, ...] = ()
    migration: Migration = Migration(MigrationPhase.DONE)
    blocker: Blocker | None = None
    trouble: str = ""

    @property
    def working(self) -> list[Worker]:
        """Workers that the kubelet finds ready and that report no blocking problem."""
        return [worker for worker in self.workers if worker.pod.ready and worker.blocking is None]

    @property
    def unmet(self) -> Problem | None:
        """The first problem because of which workers that work do not do all that was asked."""
        return next((p for worker in self.working for p in worker.problems if p.unmet), None)

    @property
    def silent(self) -> list[Worker]:
        """Workers that are ready but do not answer the operator."""
        return [worker for worker in self.workers if worker.pod.ready and worker.report is None]

    @property
    def current(self) -> int:
        """Workers that run the wanted revision."""
        return sum(worker.runs(self.revision) for worker in self.workers)

    @property
    def rolled_out(self) -> bool:
        """Exactly the wanted number of workers exists and each runs the wanted revision."""
        return len(self.workers) == self.replicas == self.current

    @property
    def settled(self) -> bool:
        """Nothing is expected to change by itself soon."""
        return (
            self.blocker is None
            and self.rolled_out
            and self.migration.phase is MigrationPhase.DONE
            and len(self.working) == self.replicas
            and self.unmet is None
        )


def migration_state(job: Manifest | None) -> Migration:
    """From the Job's conditions; a missing one counts as running because it is about to be made."""
    conditions = {c["type"]: c for c in (job or {}).get("status", {}).get("conditions") or () if c["status"] == "True"}
    if "Complete" in conditions:
        return Migration(MigrationPhase.DONE)
    if "Failed" in conditions:
        failed = conditions["Failed"]
        return Migration(MigrationPhase.FAILED, failed.get("message", ""), (job or {})["metadata"]["name"])
    return Migration(MigrationPhase.RUNNING)


def deployment_trouble(manifest: Mapping[str, Any]) -> str:
    """Why its pods cannot even be created (quota, admission), in Kubernetes's own words; empty when they can."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    failing = (c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True")
    return next((str(condition.get("message", "")) for condition in failing), "")


def _trouble(status: Mapping[str, Any], scheduled: Mapping[str, Any]) -> str:
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"
    if status.get("phase") == "Failed":
        return f"{status.get('reason', 'Failed')}: {status.get('message', '')}"
    for container in status.get("containerStatuses") or ():
        ended = container.get("lastState", {}).get("terminated")
        if ended and not container.get("ready"):
            # In the same words while it waits for its next start and while it tries: the condition must not flap.
            return f"{ended.get('reason', 'Error')}: container {container['name']} ended with exit code {ended['exitCode']} and is restarted"
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in _STARTING:
            return f"{waiting.get('reason')}: {waiting.get('message', '')}"
    return ""
