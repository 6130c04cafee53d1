"""What a spec wants mounted into its pods beside the configuration: Secrets of its calls as files, and the user's Python code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.spec import SecretKeyRef, Workload
from marty_msf.core.worker_config import CODE_DIRECTORY, SECRETS_DIRECTORY
from marty_operator.resource import Manifest

SECRETS: Final = "secrets"
CODE: Final = "code"


@dataclass(frozen=True, slots=True)
class NamedSecret:
    """A key of a Secret with the field that names it."""

    path: str
    reference: SecretKeyRef


def named_secrets(spec: Workload) -> Sequence[NamedSecret]:
    """The Secrets that the pods read as files, in the order of the spec."""
    found: list[NamedSecret] = []
    for index, step in enumerate(spec.steps if isinstance(spec, SagaSpec) else ()):
        http, path = step.call.http if step.call else None, f"spec.steps[{index}].call.http"
        if http is None:
            continue
        for place, header in enumerate(http.headers_from):
            found.append(NamedSecret(f"{path}.headersFrom[{place}].secretRef", header.secret_ref))
        if http.tls:
            found.append(NamedSecret(f"{path}.tls.caSecretRef", http.tls.ca_secret_ref))
    if isinstance(spec, SagaSpec) and spec.step_cache.redis:
        found.append(NamedSecret("spec.stepCache.redis.urlSecretRef", spec.step_cache.redis.url_secret_ref))
    return found


def code_config_map(spec: Workload) -> str | None:
    """Name of the ConfigMap with the user's code."""
    if isinstance(spec, SagaSpec) and spec.runtime and spec.runtime.code_config_map_ref:
        return spec.runtime.code_config_map_ref.name
    return None


def volumes(spec: Workload) -> list[Manifest]:
    """For the pod."""
    code = code_config_map(spec)
    return [*_secrets(spec), *([{"name": CODE, "configMap": {"name": code}}] if code else [])]


def mounts(spec: Workload) -> list[Manifest]:
    """For the container."""
    places = {SECRETS: SECRETS_DIRECTORY, CODE: CODE_DIRECTORY}
    return [{"name": volume["name"], "mountPath": places[volume["name"]], "readOnly": True} for volume in volumes(spec)]


def _secrets(spec: Workload) -> list[Manifest]:
    """Only the keys that the spec names are in it, each at `<Secret>/<key>`."""
    keys: dict[str, set[str]] = {}
    for secret in named_secrets(spec):
        keys.setdefault(secret.reference.name, set()).add(secret.reference.key)
    if not keys:
        return []
    sources: list[dict[str, Any]] = [
        {"secret": {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in sorted(keys[name])]}}
        for name in sorted(keys)
    ]
    return [{"name": SECRETS, "projected": {"sources": sources, "defaultMode": 0o440}}]
