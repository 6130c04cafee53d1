"""Brings the owned objects of one resource to what the plan says, and knows when that has to be done again.

What is remembered here only saves calls: after a restart everything is applied once more, which changes nothing.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from marty_msf.core.errors import MartyError
from marty_msf.core.resources.kinds import KINDS, Role
from marty_operator import metrics
from marty_operator.cluster import Cluster
from marty_operator.observation import deployment_trouble
from marty_operator.plan.labels import MANAGED_BY, NAME, OPERATOR
from marty_operator.plan.workload import Desired, objects, owned_name
from marty_operator.resource import Key, Manifest, Resource

logger = logging.getLogger(__name__)

#: Everything is applied again after this time, for changes that no watch shows.
FULL_APPLY_SECONDS: Final = 300.0
#: Two repairs of one resource lie at least this far apart, however hard somebody else fights for a field.
REPAIR_SECONDS: Final = 1.0
#: No mark of an object that exists.
GONE: Final = ""


class NameTaken(MartyError):
    """An object of the needed name exists and is not ours; it is left alone."""


def mark(manifest: Mapping[str, Any]) -> str:
    """Changes exactly when somebody changes what we may have set; for kinds with a generation, not when status moves."""
    metadata = manifest["metadata"]
    return f"{metadata['uid']}/{metadata.get('generation') or metadata['resourceVersion']}"


@dataclass(slots=True)
class _Applied:
    uid: str
    digest: str = ""
    at: float = float("-inf")
    #: By kind and name: what our last apply made, and what a watch has shown since that apply began.
    made: dict[tuple[str, str], str] = field(default_factory=dict)
    shown: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        return any(self.made.get(identity) != mark for identity, mark in self.shown.items())


class Applier:
    """Applies when the plan changed, when a watch showed drift, and every few minutes anyway."""

    def __init__(self, cluster: Cluster, now: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._now = now
        self._applied: dict[Key, _Applied] = {}
        self._trouble: dict[Key, str] = {}

    def forget(self, key: Key) -> None:
        self._applied.pop(key, None)
        self._trouble.pop(key, None)

    def trouble(self, key: Key) -> str:
        """Why Kubernetes cannot make the resource's pods, as a watch showed it last; empty when it can."""
        return self._trouble.get(key, "")

    def note(self, key: Key, manifest: Mapping[str, Any], gone: bool) -> None:
        """A watch showed an owned object: drift, unless it is just what we applied last."""
        if manifest["kind"] == "Deployment":
            self._trouble[key] = "" if gone else deployment_trouble(manifest)
        applied = self._applied.get(key)
        if applied is None:
            return
        applied.shown[manifest["kind"], manifest["metadata"]["name"]] = GONE if gone else mark(manifest)

    async def check_names(self, resource: Resource) -> None:
        """Raises NameTaken before anything of somebody else could be overwritten. Asked once per resource and process."""
        if resource.key in self._applied and self._applied[resource.key].uid == resource.uid:
            return
        name = owned_name(resource.key)
        kinds = ["ServiceAccount", "ConfigMap", "Secret", "Deployment"]
        if KINDS[resource.key.kind].role is Role.SAGA:
            kinds.append("Service")
        for kind in kinds:
            found = await self._cluster.get(kind, resource.key.namespace, name)
            if found is not None and not _ours(found, resource):
                raise NameTaken(
                    f"{kind} {name!r} exists in namespace {resource.key.namespace!r} and does not belong to this "
                    f"{resource.key.kind}: delete or rename it, or give the resource another name"
                )
        self._applied[resource.key] = _Applied(resource.uid)

    async def bring(self, desired: Desired) -> float | None:
        """Apply what needs it. Returns the seconds after which a repair, held back now, may be made; else None."""
        applied = self._applied[desired.key]
        manifests = objects(desired)
        digest = hashlib.sha256(json.dumps(manifests, sort_keys=True).encode()).hexdigest()
        age = self._now() - applied.at
        if digest != applied.digest:
            cause = "plan"
        elif applied.drifted:
            cause = "drift"
        elif age >= FULL_APPLY_SECONDS:
            cause = "resync"
        else:
            return None
        if cause == "drift" and age < REPAIR_SECONDS:
            return REPAIR_SECONDS - age
        for manifest in manifests:
            identity = (manifest["kind"], manifest["metadata"]["name"])
            applied.shown.pop(
                identity, None
            )  # before the call: what a watch shows during it may be newer than its answer
            applied.made[identity] = mark(await self._cluster.apply(manifest))
        applied.digest, applied.at = digest, self._now()
        metrics.APPLIES.labels(desired.key.kind, cause).inc()
        logger.info("%s: applied revision %s (%s)", desired.key, desired.revision, cause)
        return None


def _ours(manifest: Manifest, resource: Resource) -> bool:
    """An object that we left behind for an earlier resource of the same name is ours too: it is adopted."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    owners = {owner["uid"] for owner in metadata.get("ownerReferences") or ()}
    return resource.uid in owners or (labels.get(MANAGED_BY) == OPERATOR and labels.get(NAME) == resource.key.name)
