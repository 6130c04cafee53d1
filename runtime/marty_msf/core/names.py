"""Names of the Kubernetes objects and of database identities derived from a resource."""

import hashlib
from typing import Final

from marty_msf.core.resources.kinds import Role

LABEL_LIMIT: Final = 63
#: Stands for the namespace in the identities of what the library runs in processes of an application's own; no namespace
#: of Kubernetes can have this name.
LIBRARY_NAMESPACE: Final = "_python"


def object_name(name: str, suffix: str) -> str:
    """`<name>-<suffix>`, at most 63 characters: a longer one is cut and gets 8 hex digits of the whole, so it stays unique."""
    whole = f"{name}-{suffix}"
    if len(whole) <= LABEL_LIMIT:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{whole[: LABEL_LIMIT - 9].rstrip('-.')}-{digest}"


def workload_name(name: str, role: Role) -> str:
    """Name of the Deployment, ConfigMap, Service and ServiceAccount of a resource."""
    return object_name(name, role.value)
