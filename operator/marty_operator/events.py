"""Kubernetes Events on transitions of a resource's conditions and on new causes of dead letters, and on nothing else."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from marty_msf.core.errors import MartyError
from marty_msf.core.resources.spec import API_VERSION
from marty_msf.core.worker_status import ProblemReason
from marty_operator.cluster import FIELD_MANAGER, AlreadyExists, Cluster
from marty_operator.conditions import READY, STALLED
from marty_operator.observation import Reason
from marty_operator.resource import Manifest, Resource

logger = logging.getLogger(__name__)

MESSAGE_LIMIT: Final = 1000
DEAD_LETTER_CAUSE: Final = "DeadLetterCause"
#: A resource that passes through these is only on its way.
_ON_THE_WAY: Final = frozenset({Reason.MIGRATING, Reason.WORKERS_STARTING, ProblemReason.STARTING})
#: Reconciling and ConfigApplied change with every edit; as Events they would only repeat what Ready and Stalled say.
_TOLD: Final = frozenset({READY, STALLED})


def event(resource: Resource, condition: Mapping[str, Any], now: datetime) -> Manifest | None:
    """The Event of one transition; None when it is not worth one."""
    kind, status = condition["type"], condition["status"]
    if kind not in _TOLD or condition["reason"] == Reason.PENDING or (kind == STALLED and status != "True"):
        return None
    normal = kind == READY and (status != "False" or condition["reason"] in _ON_THE_WAY)
    return _manifest(
        resource,
        "Normal" if normal else "Warning",
        condition["reason"],
        condition["message"],
        f"{kind}{status}",
        now,
    )


def cause_event(resource: Resource, group: Mapping[str, Any], now: datetime) -> Manifest:
    """The Event of events that began to die of a cause."""
    message = (
        f"dead letters of a new cause {group['cause']}: {group['count']} of type {group['eventType']} for topic "
        f"{group['topic']}: {group['message']}: look with `marty dlq show {group['sample']}`"
    )
    return _manifest(resource, "Warning", DEAD_LETTER_CAUSE, message, group["cause"], now)


def _manifest(resource: Resource, severity: str, reason: str, message: str, about: str, now: datetime) -> Manifest:
    unique = f"{resource.uid}{about}{reason}{message}{now.isoformat()}"
    digest = hashlib.sha256(unique.encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{resource.key.name[:200]}.{digest}", "namespace": resource.key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": resource.key.kind,
            "namespace": resource.key.namespace,
            "name": resource.key.name,
            "uid": resource.uid,
        },
        "type": severity,
        "reason": reason,
        "message": message[:MESSAGE_LIMIT],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": os.uname().nodename,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


async def post(
    cluster: Cluster,
    resource: Resource,
    transitions: Iterable[Mapping[str, Any]],
    new_causes: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Best effort: the status is the truth, an Event that cannot be written is only logged."""
    now = datetime.now(UTC)
    of_conditions = (event(resource, condition, now) for condition in transitions)
    of_causes = (cause_event(resource, group, now) for group in new_causes)
    for manifest in (*of_conditions, *of_causes):
        if manifest is None:
            continue
        try:
            await cluster.create(manifest)
        except (MartyError, AlreadyExists) as error:
            logger.info("%s: Event not written: %s", resource.key, error)
