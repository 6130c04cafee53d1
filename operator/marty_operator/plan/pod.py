"""What worker pods and the migration Job have in common: the security that the `restricted` Pod Security level asks for."""

from dataclasses import dataclass
from typing import Final

from marty_msf.core.resources.spec import SecretKeyRef
from marty_operator.resource import Manifest

#: The user of the runtime image.
UID: Final = 10001


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """`pull_policy` empty: Kubernetes decides by the tag."""

    name: str
    pull_policy: str = ""

    @property
    def fields(self) -> Manifest:
        policy: Manifest = {"imagePullPolicy": self.pull_policy} if self.pull_policy else {}
        return {"image": self.name, **policy}


def pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "fsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def resources() -> Manifest:
    """Small requests, so that many workers fit a node; no CPU limit, because throttling only makes leases late."""
    return {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}}


def database_url(secret: SecretKeyRef) -> Manifest:
    """The URL never leaves its Secret: the kubelet puts it into the container's environment."""
    return {
        "name": "MARTY_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}},
    }
