"""A thin client of the Kubernetes API: read, server-side apply, create, delete, each with a time-out and typed errors.

The only module that calls `kubernetes`. It works with plain JSON: typed models would double the memory and hide fields
that a newer API server sends.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client, config

from marty_msf.core.errors import MartyError
from marty_msf.core.resources.kinds import KINDS
from marty_msf.core.resources.spec import API_VERSION
from marty_operator.resource import Manifest

FIELD_MANAGER: Final = "marty-operator"
CALL_SECONDS: Final = 15.0
#: Short on purpose: a server that needs longer to recover meets the queue's backoff.
RETRY_WAITS_SECONDS: Final = (0.1, 0.5)
PAGE: Final = 500
_JSON: Final = "application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_APPLY: Final = "application/apply-patch+yaml"
_RETRYABLE: Final = frozenset({401, 408, 409, 410, 425, 429})
_SERVED: Final[Mapping[str, tuple[str, str]]] = {
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "Deployment": ("apps/v1", "deployments"),
    "Job": ("batch/v1", "jobs"),
    **{kind.kind: (API_VERSION, kind.plural) for kind in KINDS.values()},
}


class ClusterUnavailable(MartyError):
    """The API server did not answer, was overloaded, or met a conflict: the same call may succeed later."""

    retryable = True


class ClusterRefused(MartyError):
    """The API server understood the call and refuses it (invalid, forbidden, quota): it names why."""

    def __init__(self, what: str, code: int, message: str) -> None:
        super().__init__(f"{what}: {message} (HTTP {code})")
        self.code = code
        self.message = message


class AlreadyExists(MartyError):
    """A create lost against an earlier one."""


class Cluster:
    """All calls raise ClusterUnavailable or ClusterRefused; a missing object is None, never an error."""

    def __init__(self, api: Any) -> None:
        self._api = api  # kubernetes.aio.client.ApiClient, which is only half typed

    @classmethod
    async def connect(cls) -> "Cluster":
        """By the service account inside a pod, else by the current kubeconfig. Does not call the API server yet."""
        configuration = await load_configuration()
        api: Any = client.ApiClient(configuration)
        api.user_agent = FIELD_MANAGER
        return cls(api)

    async def close(self) -> None:
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return await self._call("GET", _path(kind, namespace, name))

    async def list(
        self, kind: str, namespace: str | None, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Manifest]:
        """Every object of a kind, page by page; `namespace` None means all namespaces."""
        query = {"limit": str(PAGE), **({"labelSelector": labels} if labels else {})}
        accept = _METADATA if metadata_only else _JSON
        while True:
            page = await self._call("GET", _path(kind, namespace), query, accept=accept)
            for item in (page or {}).get("items") or ():
                yield {**item, "kind": kind}
            query["continue"] = (page or {}).get("metadata", {}).get("continue", "")
            if not query["continue"]:
                return

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply: we own exactly the fields in `manifest`, whoever else sets others keeps them."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        return await self._apply(path, manifest, "Strict")

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """The same for the status subresource. A field that older CRDs do not know is dropped, the rest is written."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"]) + "/status"
        return await self._apply(path, manifest, "Ignore")

    async def create(self, manifest: Manifest) -> Manifest:
        """Raises AlreadyExists when another create was first."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        created = await self._call("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)
        if created is None:
            raise ClusterRefused(f"POST {path}", 404, "the namespace or the kind does not exist")
        return created

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete exactly the object with this uid, its dependants after it; a missing one is well."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._call("DELETE", _path(kind, namespace, name), None, options)

    async def serves_our_kinds(self) -> bool:
        """Whether the CRDs are installed and established."""
        served = await self._call("GET", f"/apis/{API_VERSION}")
        names = {item["name"] for item in (served or {}).get("resources", ())}
        return all(kind.plural in names for kind in KINDS.values())

    async def _apply(self, path: str, manifest: Manifest, validation: str) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": validation}
        applied = await self._call("PATCH", path, query, manifest, _APPLY)
        if applied is None:
            raise ClusterRefused(f"PATCH {path}", 404, "the namespace or the resource does not exist any more")
        return applied

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> Manifest | None:
        """Calls that can be repeated are, at once: else a server that is merely shaky would hardly let a pass through."""
        for wait in () if method == "POST" else RETRY_WAITS_SECONDS:
            try:
                return await self._once(method, path, query, body, content_type, accept)
            except ClusterUnavailable:
                await asyncio.sleep(wait)
        return await self._once(method, path, query, body, content_type, accept)

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content_type: str,
        accept: str,
    ) -> Manifest | None:
        what = f"{method} {path}"
        try:
            verb, url, headers, payload, _ = await self._api.param_serialize(
                method,
                path,
                query_params=dict(query or {}),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            timeout = aiohttp.ClientTimeout(total=CALL_SECONDS, connect=CALL_SECONDS / 2)
            response = await self._api.call_api(verb, url, headers, payload, _request_timeout=timeout)
            data: bytes = await response.read()
        except (TimeoutError, OSError, aiohttp.ClientError, config.ConfigException) as error:
            raise ClusterUnavailable(f"{what}: {type(error).__name__} {error}".rstrip()) from error
        return _answer(what, response.status, data)


def _answer(what: str, code: int, data: bytes) -> Manifest | None:
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        answer = {}
    if 200 <= code < 300:
        return dict(answer)
    message = str(answer.get("message") or data[:500].decode(errors="replace"))
    if code == 404:
        return None
    if code == 409 and answer.get("reason") == "AlreadyExists":
        raise AlreadyExists(f"{what}: {message}")
    if code in _RETRYABLE or code >= 500:
        raise ClusterUnavailable(f"{what}: HTTP {code} {message}")
    raise ClusterRefused(what, code, message)


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    api_version, plural = _SERVED[kind]
    parts = ["api" if api_version == "v1" else "apis", api_version]
    if namespace is not None:
        parts += ["namespaces", quote(namespace)]
    parts.append(plural)
    if name is not None:
        parts.append(quote(name))
    return "/" + "/".join(parts)


async def load_configuration() -> Any:
    """Address and credentials: the pod's service account (its token is read again each minute), else the kubeconfig."""
    configuration, loader = client.Configuration(), cast("Any", config)
    try:
        loader.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await loader.load_kube_config(client_configuration=configuration, persist_config=False)
    return configuration
