"""What a spec wants mounted into its pods beside the configuration: Secrets of its calls and of Kafka as files, and the user's Python code."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from marty_msf.core.resources import kafka
from marty_msf.core.resources.kafka import AuthenticationType, Kafka
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
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
    #: The pods do without it when it is not there.
    optional: bool = False
    #: The pods are made anew when it changes, because they keep what they opened with it.
    rolls: bool = False


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
    if isinstance(spec, SagaSpec | OutboxRelaySpec | ProjectionSpec) and spec.kafka:
        found += _of_kafka(spec.kafka)
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


def _of_kafka(connection: Kafka) -> list[NamedSecret]:
    found: list[NamedSecret] = []
    for index, trusted in enumerate(connection.tls.trusted_certificates if connection.tls else ()):
        reference = SecretKeyRef(name=trusted.secret_name, key=trusted.certificate)
        found.append(NamedSecret(f"spec.kafka.tls.trustedCertificates[{index}]", reference, rolls=True))
    if login := connection.authentication:
        keys = {kafka.PASSWORD_KEY: False}
        if login.type is AuthenticationType.TLS:
            keys = {kafka.CERTIFICATE_KEY: False, kafka.PRIVATE_KEY_KEY: False}
        elif login.username is None:
            keys[kafka.USERNAME_KEY] = True
        for key, optional in keys.items():
            reference = SecretKeyRef(name=login.secret_ref.name, key=key)
            found.append(NamedSecret("spec.kafka.authentication.secretRef", reference, optional, rolls=True))
    return found


def _secrets(spec: Workload) -> list[Manifest]:
    """Only the keys that the spec names are in it, each at `<Secret>/<key>`."""
    needed: dict[str, set[str]] = {}
    optional: dict[str, set[str]] = {}
    for secret in named_secrets(spec):
        keys = optional if secret.optional else needed
        keys.setdefault(secret.reference.name, set()).add(secret.reference.key)
    # One that is needed somewhere is mounted once, as a needed one.
    may = {name: left for name, keys in optional.items() if (left := keys - needed.get(name, set()))}
    sources = [{"secret": _source(name, needed[name])} for name in sorted(needed)]
    sources += [{"secret": {**_source(name, may[name]), "optional": True}} for name in sorted(may)]
    if not sources:
        return []
    return [{"name": SECRETS, "projected": {"sources": sources, "defaultMode": 0o440}}]


def _source(name: str, keys: Collection[str]) -> dict[str, Any]:
    return {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in sorted(keys)]}
