"""A kube-apiserver with its etcd and nothing else: the real schema validation, for tests that need no pods.

It shares nothing with the local cluster, so a test may install and remove definitions as it likes.
"""

import json
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from dev.cluster.layout import LOOPBACK, Layout
from tests.support.cluster import Cluster

START_SECONDS: Final = 60


@contextmanager
def api_server(directory: Path) -> Iterator[Cluster]:
    """Run both programs below `directory`, on free ports of the loopback interface, until the block ends."""
    programs = Layout.of_environment().programs
    if not (programs / "kubectl").exists():
        raise RuntimeError(f"{programs / 'kubectl'} does not exist: run `python3 -m dev.cluster up` once")
    program = (programs / "kubectl").resolve()  # one binary holds every Kubernetes program
    client_port, peer_port, port = _free_ports(3)
    etcd_url = f"http://{LOOPBACK}:{client_port}"
    peer_url = f"http://{LOOPBACK}:{peer_port}"
    token = secrets.token_hex(16)
    key = directory / "service-account.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (directory / "tokens.csv").write_text(f'{token},tests,tests,"system:masters"\n')
    etcd = [
        *("etcd", "--name", "tests", "--data-dir", f"{directory}/etcd", "--log-level", "error", "--unsafe-no-fsync"),
        *("--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url, "--listen-peer-urls", peer_url),
        *("--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"tests={peer_url}"),
    ]
    server = [
        *("kube-apiserver", "--etcd-servers", etcd_url, "--bind-address", LOOPBACK, "--secure-port", str(port)),
        *("--advertise-address", LOOPBACK, "--endpoint-reconciler-type", "none", "--cert-dir", f"{directory}/certs"),
        *("--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", str(key)),
        *("--service-account-signing-key-file", str(key), "--service-cluster-ip-range", "10.96.0.0/16"),
        *("--token-auth-file", f"{directory}/tokens.csv", "--authorization-mode", "RBAC"),
        # A cache that is being built while its definition goes away can hold up the definition's end for minutes.
        "--watch-cache=false",
    ]
    cluster = Cluster(_kubeconfig(directory, port, token), programs)
    with ExitStack() as stack:
        for command in (etcd, server):
            stack.enter_context(_running([str(program), *command], directory / f"{command[0]}.log"))
        _wait_until_ready(cluster, directory / "kube-apiserver.log")
        yield cluster
    shutil.rmtree(directory / "etcd", ignore_errors=True)


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.kill()


def _wait_until_ready(cluster: Cluster, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while cluster.kubectl("get", "--raw", "/readyz", check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no API server after {START_SECONDS} s; its log ends:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _kubeconfig(directory: Path, port: int, token: str) -> Path:
    path = directory / "kubeconfig"
    cluster = {"server": f"https://{LOOPBACK}:{port}", "insecure-skip-tls-verify": True}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
