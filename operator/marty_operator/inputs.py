"""What pods mount must be there before they are made: the Secrets and the ConfigMap that a spec names."""

import hashlib
import json

from marty_msf.core.resources.spec import Workload
from marty_operator import secrets
from marty_operator.cluster import Cluster
from marty_operator.observation import Blocker, Reason
from marty_operator.plan.files import code_config_map, named_secrets


async def check(cluster: Cluster, namespace: str, spec: Workload) -> str | Blocker:
    """A hash of the user's code, empty without any; or the first thing that is missing.

    The files of Secrets change in running pods by themselves, so only the code has a hash, which rolls them.
    """
    for secret in named_secrets(spec):
        found = await secrets.read_reference(cluster, namespace, secret.reference, secret.path)
        if isinstance(found, Blocker):
            return found
    name = code_config_map(spec)
    if name is None:
        return ""
    code = await cluster.get("ConfigMap", namespace, name)
    if code is None:
        return Blocker(
            Reason.CONFIG_MAP_NOT_FOUND,
            f"spec.runtime.codeConfigMapRef: ConfigMap {name!r} does not exist in namespace {namespace!r}:"
            " create it or correct the name",
        )
    texts = json.dumps([code.get("data"), code.get("binaryData")], sort_keys=True)
    return hashlib.sha256(texts.encode()).hexdigest()[:16]
