"""What the command line asks the Kubernetes API: Saga resources and the secrets that name their databases."""

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
_PLURAL: Final = KINDS["Saga"].plural
_REASONS: Final = {
    401: "the API server does not know you: log in again, or choose another --context",
    403: "you may not read it: ask for the right to get sagas and secrets in this namespace",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A Saga resource and its database."""

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

    def saga(self, name: str) -> Place:
        """One Saga resource."""
        what = f"Saga {self.namespace}/{name}"
        return self._place(self._ask(what, self._custom.get_namespaced_custom_object, name))

    def sagas(self) -> Sequence[Place]:
        """Those of the namespace."""
        answer = self._ask(f"the Sagas of namespace {self.namespace}", self._custom.list_namespaced_custom_object)
        return [self._place(item) for item in answer["items"]]

    def set_state(self, name: str, state: str, *, dry_run: bool) -> None:
        """Change spec.state, as `kubectl patch` would."""
        body = {"spec": {"state": state}}
        options = {"dry_run": "All"} if dry_run else {}
        self._ask(f"Saga {self.namespace}/{name}", self._custom.patch_namespaced_custom_object, name, body, **options)

    @property
    def _custom(self) -> Any:
        return client.CustomObjectsApi(self._api)

    def _ask(self, what: str, call: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return call(
                GROUP, VERSION, self.namespace, _PLURAL, *arguments, _request_timeout=_TIMEOUT_SECONDS, **options
            )
        except (ApiException, HTTPError) as error:
            raise _failure(what, error) from error

    def _place(self, saga: dict[str, Any]) -> Place:
        namespace, name = saga["metadata"]["namespace"], saga["metadata"]["name"]
        reference = saga["spec"]["database"]["urlSecretRef"]
        secret, key = reference["name"], reference.get("key", "uri")
        what = f"Secret {namespace}/{secret} of Saga {name}"
        try:
            found = client.CoreV1Api(self._api).read_namespaced_secret(
                secret, namespace, _request_timeout=_TIMEOUT_SECONDS
            )
            url = base64.b64decode((found.data or {})[key], validate=True).decode()
        except (ApiException, HTTPError) as error:
            raise _failure(what, error) from error
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


def _failure(what: str, error: Exception) -> click.ClickException:
    if isinstance(error, ApiException):
        if error.status == 404:
            return click.ClickException(f"{what}: not found: look with `kubectl get sagas -A`, and give -n NAMESPACE")
        reason = _REASONS.get(error.status, f"the API server answered {error.status} {error.reason}")
        return click.ClickException(f"{what}: {reason}")
    return click.ClickException(f"{what}: the API server does not answer ({type(error).__name__}): check --context")
