"""Certificates and kubeconfigs of the cluster, made once with openssl."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import run
from dev.cluster.files import made_whole, write_if_changed
from dev.cluster.layout import API_URL, KUBERNETES_SERVICE_IP, LOOPBACK, NODE, NODE_IP, Layout

DAYS: Final = "3650"
CONFIG: Final = "openssl.cnf"
# Without a configuration of its own openssl adds the distribution's extensions to ours.
OPENSSL_CONFIG: Final = "[req]\ndistinguished_name=dn\n[dn]\n"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One certificate; with names it is a server's, without a client's."""

    name: str
    subject: str
    authority: str = "ca"
    names: tuple[str, ...] = ()


_API_NAMES: Final = tuple(
    [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    + ["DNS:localhost", f"DNS:{NODE}", *(f"IP:{ip}" for ip in (LOOPBACK, KUBERNETES_SERVICE_IP, NODE_IP))]
)
LEAVES: Final = (
    Leaf("apiserver", "/CN=kube-apiserver", names=_API_NAMES),
    Leaf("kubelet-server", f"/CN={NODE}", names=(f"DNS:{NODE}", f"IP:{NODE_IP}", f"IP:{LOOPBACK}")),
    Leaf("apiserver-kubelet-client", "/CN=apiserver-kubelet-client"),
    Leaf("front-proxy-client", "/CN=front-proxy-client", authority="front-proxy-ca"),
    Leaf("admin", "/O=system:masters/CN=admin"),
    Leaf("kubelet", f"/O=system:nodes/CN=system:node:{NODE}"),
    Leaf("controller-manager", "/CN=system:kube-controller-manager"),
    Leaf("scheduler", "/CN=system:kube-scheduler"),
    Leaf("proxy", "/CN=system:kube-proxy"),
    Leaf("coredns", "/CN=system:coredns"),
)
USERS: Final = ("admin", "kubelet", "controller-manager", "scheduler", "proxy", "coredns")


def make_certificates(layout: Layout) -> None:
    """All keys and certificates, in one directory that is complete or absent; then one kubeconfig per user."""
    if not layout.pki.exists():
        with made_whole(layout.pki) as draft:
            draft.mkdir(mode=0o700)
            (draft / CONFIG).write_text(OPENSSL_CONFIG)
            for authority in ("ca", "front-proxy-ca"):
                _make_authority(draft, authority)
            _make_key(draft, "sa")
            run(["openssl", "ec", "-in", draft / "sa.key", "-pubout", "-out", draft / "sa.pub"])
            for leaf in LEAVES:
                _make_leaf(draft, leaf)
    for user in USERS:
        write_if_changed(layout.kubeconfig(user), kubeconfig(layout.pki, user), mode=0o600)


def drop_certificates(layout: Layout) -> None:
    for path in (layout.pki, layout.kubeconfig("admin").parent):
        shutil.rmtree(path, ignore_errors=True)


def kubeconfig(pki: Path, user: str) -> str:
    """A self-contained kubeconfig (JSON, which is YAML) for one certificate's user."""

    def embedded(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    credentials = {"client-certificate-data": embedded(f"{user}.crt"), "client-key-data": embedded(f"{user}.key")}
    cluster = {"server": API_URL, "certificate-authority-data": embedded("ca.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "marty-dev", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "marty-dev", "context": {"cluster": "marty-dev", "user": user}}],
        "current-context": "marty-dev",
    }
    return json.dumps(config, indent=1)


def _make_key(directory: Path, name: str) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", directory / f"{name}.key"])


def _make_authority(directory: Path, name: str) -> None:
    _make_key(directory, name)
    extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    run([*_request(directory, name), "-subj", f"/CN={name}", *_options(extensions)])


def _make_leaf(directory: Path, leaf: Leaf) -> None:
    _make_key(directory, leaf.name)
    usage = "serverAuth" if leaf.names else "clientAuth"
    extensions = ["basicConstraints=critical,CA:FALSE", f"extendedKeyUsage={usage}"]
    if leaf.names:
        extensions.append(f"subjectAltName={','.join(leaf.names)}")
    authority = directory / leaf.authority
    signed_by = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"]
    run([*_request(directory, leaf.name), *signed_by, "-subj", leaf.subject, *_options(extensions)])


def _request(directory: Path, name: str) -> list[str | Path]:
    files: list[str | Path] = [
        "-config",
        directory / CONFIG,
        "-key",
        directory / f"{name}.key",
        "-out",
        directory / f"{name}.crt",
    ]
    return ["openssl", "req", "-x509", "-new", "-days", DAYS, *files]


def _options(extensions: Sequence[str]) -> list[str]:
    return [part for extension in extensions for part in ("-addext", extension)]
