"""What pods mount must be there before they are made: the Secrets and the ConfigMap that a spec names."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from marty_msf.core.resources.spec import Workload
from marty_operator import secrets
from marty_operator.cluster import Cluster
from marty_operator.observation import Blocker, Reason
from marty_operator.plan.files import code_config_map, named_secrets


@dataclass(frozen=True, slots=True)
class Inputs:
    """What there is. The files of Secrets change in running pods by themselves, so few of them roll pods."""

    #: Of the user's code; empty without any.
    code_hash: str = ""
    #: Values of the Secrets whose change rolls the pods, in the order of the spec: only to be hashed.
    rolling: Sequence[str] = ()


async def check(cluster: Cluster, namespace: str, spec: Workload) -> Inputs | Blocker:
    """What the pods would find, or the first thing that is missing."""
    rolling: list[str] = []
    for secret in named_secrets(spec):
        found = await secrets.read_reference(cluster, namespace, secret.reference, secret.path)
        if isinstance(found, Blocker):
            if not secret.optional:
                return found
            found = ""
        if secret.rolls:
            rolling.append(found)
    name = code_config_map(spec)
    if name is None:
        return Inputs(rolling=rolling)
    code = await cluster.get("ConfigMap", namespace, name)
    if code is None:
        return Blocker(
            Reason.CONFIG_MAP_NOT_FOUND,
            f"spec.runtime.codeConfigMapRef: ConfigMap {name!r} does not exist in namespace {namespace!r}:"
            " create it or correct the name",
        )
    texts = json.dumps([code.get("data"), code.get("binaryData")], sort_keys=True)
    return Inputs(hashlib.sha256(texts.encode()).hexdigest()[:16], rolling)
