"""Single objects, read and applied without kubectl: to start it costs a quarter of a second of a core, each time."""

import base64
import json
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from marty_msf.core.resources.kinds import KINDS
from marty_msf.core.resources.spec import API_VERSION

#: Kind in lower case -> API version and plural.
_KINDS: Final = {
    **{name.lower(): (API_VERSION, kind.plural) for name, kind in KINDS.items()},
    **{name: ("v1", f"{name}s") for name in ("configmap", "namespace", "pod", "secret", "service", "serviceaccount")},
    "deployment": ("apps/v1", "deployments"),
    "job": ("batch/v1", "jobs"),
}


class Refused(AssertionError):
    """What the API server says."""


@dataclass(frozen=True, slots=True)
class Api:
    """One API server as its kubeconfig names it."""

    host: str
    token: str
    tls: ssl.SSLContext

    @classmethod
    def of(cls, kubeconfig: Path) -> "Api":
        """As the kubeconfig says."""
        return _of(kubeconfig, kubeconfig.stat().st_mtime_ns)

    def get(self, kind: str, namespace: str, name: str = "", query: str = "") -> dict[str, Any]:
        """An object, or with no name a list of all; {} when there is none."""
        status, answer = self._ask("GET", f"{_path(kind, namespace, name)}{query}")
        if status == 404:
            return {}
        return _checked(status, answer)

    def apply(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply, as strict about fields as kubectl. Raises Refused."""
        metadata = document["metadata"]
        path = _path(document["kind"], metadata.get("namespace", "default"), metadata["name"])
        return _checked(
            *self._ask("PATCH", f"{path}?fieldManager=tests&fieldValidation=Strict", json.dumps(document).encode())
        )

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml"
        connection = HTTPSConnection(self.host, context=self.tls, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def _path(kind: str, namespace: str, name: str) -> str:
    version, plural = _KINDS[kind.lower()]
    base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    place = "" if plural == "namespaces" else f"/namespaces/{namespace}"
    return f"{base}{place}/{plural}{f'/{name}' if name else ''}"


def _checked(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    if status >= 300:
        raise Refused(answer.get("message", json.dumps(answer)))
    return answer


@lru_cache
def _of(kubeconfig: Path, _changed: int) -> Api:
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = cluster.get("certificate-authority-data")
    tls = ssl.create_default_context(cadata=base64.b64decode(authority).decode() if authority else None)
    if not authority:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if "client-certificate-data" in user:
        with tempfile.NamedTemporaryFile() as both:
            both.write(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
            both.flush()
            tls.load_cert_chain(both.name)
    return Api(urlsplit(cluster["server"]).netloc, user.get("token", ""), tls)
