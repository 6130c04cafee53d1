"""Every object that one resource owns, as manifests for server-side apply."""

from dataclasses import dataclass
from typing import Final

from marty_msf.core import worker_config
from marty_msf.core.names import workload_name
from marty_msf.core.resources.kinds import KINDS, Role
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.spec import RunState
from marty_operator.plan import files, pod
from marty_operator.plan.labels import CODE_HASH, CONFIG_REVISION, SECRETS_HASH, labels, selector
from marty_operator.resource import Key, Manifest

Spec = SagaSpec | OutboxRelaySpec | ProjectionSpec
Config = worker_config.SagaConfig | worker_config.RelayConfig | worker_config.ProjectionConfig

CONFIG_FILE: Final = "config.json"
CONFIG_DIRECTORY: Final = "/etc/marty"
TOKEN_KEY: Final = "token"  # noqa: S105  # the name of a key, not a token
PORT: Final = 8080
#: Longer than the 25 s in which a stopping worker finishes or hands back what it holds.
GRACE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Desired:
    """What one resource asks for, after validation. `replicas` is 0 when it is Stopped."""

    key: Key
    owner_reference: Manifest
    config: Config
    replicas: int
    secrets_hash: str
    image: pod.RuntimeImage
    #: Of the user's code in a ConfigMap; empty without one.
    code_hash: str = ""

    @property
    def revision(self) -> str:
        return worker_config.revision(self.config)


def config_of(key: Key, spec: Spec) -> Config:
    """The workers' configuration. The number of replicas is no part of it: scaling must not roll the pods."""
    spec = spec.model_copy(update={"replicas": type(spec).model_fields["replicas"].default})
    match spec:
        case SagaSpec():
            return worker_config.SagaConfig(namespace=key.namespace, name=key.name, spec=spec)
        case OutboxRelaySpec():
            return worker_config.RelayConfig(namespace=key.namespace, name=key.name, spec=spec)
        case ProjectionSpec():
            return worker_config.ProjectionConfig(namespace=key.namespace, name=key.name, spec=spec)


def wanted_replicas(spec: Spec) -> int:
    """Worker pods that shall exist now."""
    return 0 if spec.state is RunState.STOPPED else spec.replicas


def image_of(spec: Spec, default: pod.RuntimeImage) -> pod.RuntimeImage:
    """The user's own image if there is one; when it is pulled is left to Kubernetes then."""
    if isinstance(spec, SagaSpec) and spec.runtime and spec.runtime.image:
        return pod.RuntimeImage(spec.runtime.image)
    return default


def owned_name(key: Key) -> str:
    """The one name of everything a resource owns."""
    return workload_name(key.name, KINDS[key.kind].role)


def objects(desired: Desired) -> list[Manifest]:
    """In the order in which they are applied: what the pods need comes before the Deployment. The token is made apart."""
    parts = [service_account(desired), config_map(desired)]
    if KINDS[desired.key.kind].role is Role.SAGA:
        parts.append(service(desired))
    return [*parts, deployment(desired)]


def service_account(desired: Desired) -> Manifest:
    """Workers never call the Kubernetes API; an account of their own keeps the namespace's default one out of the pods."""
    return {**_head(desired, "v1", "ServiceAccount"), "automountServiceAccountToken": False}


def config_map(desired: Desired) -> Manifest:
    """Also the memory of the last good configuration: it is only ever written from a valid spec."""
    manifest = _head(desired, "v1", "ConfigMap")
    manifest["metadata"]["annotations"] = {CONFIG_REVISION: desired.revision}
    return {**manifest, "data": {CONFIG_FILE: worker_config.render(desired.config)}}


def service(desired: Desired) -> Manifest:
    """Where sagas are started over HTTP."""
    return {
        **_head(desired, "v1", "Service"),
        "spec": {
            "selector": selector(desired.key),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def token_secret(key: Key, owner_reference: Manifest, token: str) -> Manifest:
    """The bearer token of the workers' HTTP surface. Created once and never applied again."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": owned_name(key),
            "namespace": key.namespace,
            "labels": labels(key),
            "ownerReferences": [owner_reference],
        },
        "stringData": {TOKEN_KEY: token},
    }


def deployment(desired: Desired) -> Manifest:
    """Rolls when configuration, a secret or the user's code changes, one new pod at a time, so that few lanes move at once."""
    return {
        **_head(desired, "apps/v1", "Deployment"),
        "spec": {
            "replicas": desired.replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(desired.key)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {
                    "labels": labels(desired.key),
                    "annotations": {
                        CONFIG_REVISION: desired.revision,
                        SECRETS_HASH: desired.secrets_hash,
                        **({CODE_HASH: desired.code_hash} if desired.code_hash else {}),
                    },
                },
                "spec": _pod(desired),
            },
        },
    }


def _pod(desired: Desired) -> Manifest:
    name = owned_name(desired.key)
    return {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod.pod_security(),
        "containers": [_worker(desired)],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "tmp", "emptyDir": {}},
            *files.volumes(desired.config.spec),
        ],
    }


def _worker(desired: Desired) -> Manifest:
    token = {"name": owned_name(desired.key), "key": TOKEN_KEY}
    code = ["--code", worker_config.CODE_DIRECTORY] if files.code_config_map(desired.config.spec) else []
    return {
        "name": "worker",
        **desired.image.fields,
        "args": ["run", desired.config.role.value, "--config", f"{CONFIG_DIRECTORY}/{CONFIG_FILE}", *code],
        "env": [
            pod.database_url(desired.config.spec.database.url_secret_ref),
            {"name": "MARTY_TOKEN", "valueFrom": {"secretKeyRef": token}},
            {"name": "MARTY_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/healthz", period=1, failures=90),
        "livenessProbe": _probe("/healthz", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "resources": pod.resources(),
        "securityContext": pod.container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # the only writable place in the container
            *files.mounts(desired.config.spec),
        ],
    }


def _probe(path: str, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def _head(desired: Desired, api_version: str, kind: str) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": owned_name(desired.key),
            "namespace": desired.key.namespace,
            "labels": labels(desired.key),
            "ownerReferences": [desired.owner_reference],
        },
    }
