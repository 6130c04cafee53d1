"""What a spec wants mounted into its pods beside the configuration: the Secrets that its calls need, as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.spec import SecretKeyRef, Workload
from marty_msf.core.worker_config import SECRETS_DIRECTORY
from marty_operator.resource import Manifest

VOLUME: Final = "secrets"


@dataclass(frozen=True, slots=True)
class NamedSecret:
    """A key of a Secret with the field that names it."""

    path: str
    reference: SecretKeyRef


def named_secrets(spec: Workload) -> Sequence[NamedSecret]:
    """The Secrets that the pods read as files, in the order of the spec."""
    found: list[NamedSecret] = []
    for index, step in enumerate(spec.steps if isinstance(spec, SagaSpec) else ()):
        if step.call is None:
            continue
        http, path = step.call.http, f"spec.steps[{index}].call.http"
        for place, header in enumerate(http.headers_from):
            found.append(NamedSecret(f"{path}.headersFrom[{place}].secretRef", header.secret_ref))
        if http.tls:
            found.append(NamedSecret(f"{path}.tls.caSecretRef", http.tls.ca_secret_ref))
    return found


def volumes(spec: Workload) -> list[Manifest]:
    """For the pod. Only the keys that the spec names are in it, each at `<Secret>/<key>`."""
    keys: dict[str, set[str]] = {}
    for secret in named_secrets(spec):
        keys.setdefault(secret.reference.name, set()).add(secret.reference.key)
    if not keys:
        return []
    sources: list[dict[str, Any]] = [
        {"secret": {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in sorted(keys[name])]}}
        for name in sorted(keys)
    ]
    return [{"name": VOLUME, "projected": {"sources": sources, "defaultMode": 0o440}}]


def mounts(spec: Workload) -> list[Manifest]:
    """For the container."""
    return [{"name": VOLUME, "mountPath": SECRETS_DIRECTORY, "readOnly": True}] if named_secrets(spec) else []
