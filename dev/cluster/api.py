"""The few questions asked of the API server, the DNS server and kube-proxy while the cluster starts."""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any, Final

from dev.cluster.commands import run
from dev.cluster.errors import ClusterError
from dev.cluster.layout import API_URL, DNS_READY_PORT, KUBERNETES_SERVICE_IP, LOOPBACK, NODE, NODE_IP, Layout

TIMEOUT_SECONDS: Final = 5.0
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
APPLY: Final = "?fieldManager=marty-dev&force=true"

DNS_ROLE: Final = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "system:coredns"},
    "rules": [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ],
}


def _binding(name: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


# The second binding lets the API server fetch logs and run `exec` on the kubelet.
RBAC_OBJECTS: Final = {
    "clusterroles/system:coredns": DNS_ROLE,
    "clusterrolebindings/system:coredns": _binding("system:coredns", "system:coredns", "system:coredns"),
    "clusterrolebindings/marty-dev-kubelet": _binding(
        "marty-dev-kubelet", "system:kubelet-api-admin", "apiserver-kubelet-client"
    ),
}


def answers(url: str) -> bool:
    """Whether a plain http address answers 200, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


class Api:
    """The API server as its administrator."""

    def __init__(self, layout: Layout) -> None:
        self._tls = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        self._tls.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )

    def is_ready(self) -> bool:
        try:
            self._send("GET", "/readyz", None)
        except (ClusterError, OSError, http.client.HTTPException):
            return False
        return True

    def get(self, path: str) -> dict[str, Any] | None:
        """The object at a path, None when it does not exist or the server does not answer yet."""
        try:
            found: dict[str, Any] = json.loads(self._send("GET", path, None))
        except (ClusterError, OSError, http.client.HTTPException):
            return None
        return found

    def apply(self, path: str, manifest: dict[str, Any]) -> None:
        """Server-side apply of one object."""
        self._send("PATCH", path + APPLY, json.dumps(manifest).encode())

    def apply_access_rules(self) -> None:
        for name, manifest in RBAC_OBJECTS.items():
            self.apply(f"{RBAC}/{name}", manifest)

    def node_has_address(self) -> bool:
        """kube-proxy waits half a minute and then guesses when it starts before this."""
        node = self.get(f"/api/v1/nodes/{NODE}") or {}
        return any(found["address"] == NODE_IP for found in node.get("status", {}).get("addresses", []))

    def node_is_ready(self, since: datetime) -> bool:
        """Ready, and said so after `since`: the stored node of an earlier run still claims it."""
        return node_ready(self.get(f"/api/v1/nodes/{NODE}") or {}, since)

    def default_account_exists(self) -> bool:
        """Pods of a namespace are refused until its account exists."""
        return self.get("/api/v1/namespaces/default/serviceaccounts/default") is not None

    def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(API_URL + path, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", "application/apply-patch+yaml")
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                answer: bytes = response.read()
        except urllib.error.HTTPError as refused:
            text = refused.read().decode(errors="replace")[:300]
            raise ClusterError(f"{method} {path}: the API server answered {refused.code}: {text}") from refused
        return answer


def node_ready(node: dict[str, Any], since: datetime) -> bool:
    for condition in node.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready":
            beat = datetime.fromisoformat(condition["lastHeartbeatTime"])
            return condition["status"] == "True" and beat >= since.replace(microsecond=0)
    return False


def services_are_programmed() -> bool:
    """kube-proxy has written the first Service's rule."""
    return KUBERNETES_SERVICE_IP in run(["iptables-save", "-t", "nat"])


def dns_is_ready() -> bool:
    return answers(f"http://{LOOPBACK}:{DNS_READY_PORT}/ready")
