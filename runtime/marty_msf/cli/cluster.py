"""What the command line asks the Kubernetes API: resources and the secrets that name their databases."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3 import disable_warnings
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from marty_msf.core.resources.kinds import KINDS
from marty_msf.core.resources.spec import GROUP, VERSION

_TIMEOUT_SECONDS: Final = 10
_CONFIG: Final[Any] = config  # ships no types
_REASONS: Final = {
    401: "the API server does not know you: log in again, or choose another --context",
    403: "you may not read it: ask for the right to get it, and secrets, in this namespace",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A resource and its database."""

    resource: str
    url: str


class Cluster:
    """The API server of a kubeconfig's context. Every method raises click.ClickException."""

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        # A kubeconfig that skips the check of the server's certificate does so on purpose; kubectl is silent too.
        disable_warnings(InsecureRequestWarning)
        try:
            self._api: Any = _CONFIG.new_client_from_config(config_file=kubeconfig, context=context)
            self.namespace: str = namespace or _namespace(kubeconfig, context)
        except (ConfigException, OSError) as error:
            raise click.ClickException(
                f"there is no database URL and no usable kubeconfig ({error}): "
                "set MARTY_DATABASE_URL or --database-url, or give --kubeconfig and --context"
            ) from error

    def place(self, kind: str, name: str) -> Place:
        """One resource."""
        what = f"{kind} {self.namespace}/{name}"
        return self._place(kind, self._ask(what, kind, self._custom.get_namespaced_custom_object, name))

    def places(self, kind: str) -> Sequence[Place]:
        """Those of the namespace."""
        what = f"the {kind}s of namespace {self.namespace}"
        answer = self._ask(what, kind, self._custom.list_namespaced_custom_object)
        return [self._place(kind, item) for item in answer["items"]]

    def set_state(self, name: str, state: str, *, dry_run: bool) -> None:
        """Change spec.state of a Saga, as `kubectl patch` would."""
        body = {"spec": {"state": state}}
        options = {"dry_run": "All"} if dry_run else {}
        what = f"Saga {self.namespace}/{name}"
        self._ask(what, "Saga", self._custom.patch_namespaced_custom_object, name, body, **options)

    @property
    def _custom(self) -> Any:
        return client.CustomObjectsApi(self._api)

    def _ask(self, what: str, kind: str, call: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return call(
                GROUP,
                VERSION,
                self.namespace,
                KINDS[kind].plural,
                *arguments,
                _request_timeout=_TIMEOUT_SECONDS,
                **options,
            )
        except (ApiException, HTTPError) as error:
            raise _failure(what, kind, error) from error

    def _place(self, kind: str, found: dict[str, Any]) -> Place:
        namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
        reference = found["spec"]["database"]["urlSecretRef"]
        secret, key = reference["name"], reference.get("key", "uri")
        what = f"Secret {namespace}/{secret} of {kind} {name}"
        try:
            secret_found = client.CoreV1Api(self._api).read_namespaced_secret(
                secret, namespace, _request_timeout=_TIMEOUT_SECONDS
            )
            url = base64.b64decode((secret_found.data or {})[key], validate=True).decode()
        except (ApiException, HTTPError) as error:
            raise _failure(what, kind, error) from error
        except (KeyError, binascii.Error, UnicodeDecodeError) as error:
            raise click.ClickException(
                f"{what}: has no readable key {key!r}: write the database's URL there"
            ) from error
        return Place(f"{namespace}/{name}", url)


def _namespace(kubeconfig: str | None, context: str | None) -> str:
    """Of the context, as kubectl takes it."""
    contexts, active = _CONFIG.list_kube_config_contexts(config_file=kubeconfig)
    chosen = next((it for it in contexts if it["name"] == context), active) if context else active
    return str(chosen["context"].get("namespace") or "default")


def _failure(what: str, kind: str, error: Exception) -> click.ClickException:
    if isinstance(error, ApiException):
        if error.status == 404:
            return click.ClickException(
                f"{what}: not found: look with `kubectl get {KINDS[kind].plural} -A`, and give -n NAMESPACE"
            )
        reason = _REASONS.get(error.status, f"the API server answered {error.status} {error.reason}")
        return click.ClickException(f"{what}: {reason}")
    return click.ClickException(f"{what}: the API server does not answer ({type(error).__name__}): check --context")
