"""Somebody's own cluster as the demo's target: Postgres and Kafka come as pods, everything is reached by port-forward."""

import os
import re
import secrets
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Final

from dev.cluster.commands import without_proxies
from dev.cluster.errors import ClusterError
from dev.demo.kubectl import Kubectl
from dev.demo.manifests import NAMESPACE, read, secret, with_image
from dev.demo.target import Images, Pod, Servers

ADMIN: Final = "postgres"
#: Kafka tells clients its own address, so the forwarded port must be the port that it advertises.
KAFKA_OUTSIDE_PORT: Final = 39092
FORWARD_SECONDS: Final = 20.0
SERVERS_SECONDS: Final = 240
FORWARDING: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class ContextCluster:
    """A context of the user's kubeconfig."""

    def __init__(self, context: str, kubectl: str, helm: str, images: Images, servers: Mapping[str, str]) -> None:
        self.kubectl = Kubectl(kubectl, ("--context", context))
        self.helm = (helm, "--kube-context", context)
        self.name = f"the cluster of context {context}"
        self._images = images
        self._server_images = servers
        self._forwards: list[subprocess.Popen[str]] = []

    def images(self) -> Images:
        return self._images

    def servers(self) -> Servers:
        password = self._admin_password()
        manifests = read("servers/postgres", "servers/kafka")
        for place, image in self._server_images.items():
            manifests = with_image(manifests, place, image)
        self.kubectl.apply(manifests)
        for name in ("postgres", "kafka"):
            self.kubectl.run(
                "rollout", "status", f"statefulset/{name}", "-n", NAMESPACE, f"--timeout={SERVERS_SECONDS}s"
            )
        port = self._forward("service/postgres", "5432")
        outside = str(KAFKA_OUTSIDE_PORT)
        self._forward("statefulset/kafka", f"{outside}:{outside}")
        return Servers(f"postgresql://{ADMIN}:{password}@127.0.0.1:{port}/postgres", f"127.0.0.1:{outside}")

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self._forward(f'service/{service}', '80')}"

    def advice(self, service: str) -> str:
        forward = ["port-forward", "-n", NAMESPACE, f"service/{service}", "8080:80"]
        return f"http://127.0.0.1:8080 after `{' '.join(['kubectl', *self.kubectl.options, *forward])}`"

    def kill(self, pods: Sequence[Pod]) -> None:
        """From outside the node the nearest thing to -9: no grace, no handing back."""
        self.kubectl.run(
            "delete", "pod", *(pod.name for pod in pods), "-n", NAMESPACE, "--grace-period=0", "--force", "--wait=false"
        )

    def close(self) -> None:
        for process in self._forwards:
            process.terminate()
        for process in self._forwards:
            process.wait()
        self._forwards.clear()

    def _admin_password(self) -> str:
        """Made once and kept in the cluster: the database keeps its administrator's password too."""
        password = self.kubectl.secret_value("postgres-admin", "password", NAMESPACE)
        if password is None:
            password = secrets.token_urlsafe(24)
            self.kubectl.apply([secret("postgres-admin", {"password": password})])
        return password

    def _forward(self, what: str, ports: str) -> int:
        """The local port. A given port forwards `local:remote`, a bare one lets kubectl choose."""
        ports = ports if ":" in ports else f":{ports}"
        process = subprocess.Popen(
            [self.kubectl.program, *self.kubectl.options, "port-forward", "-n", NAMESPACE, what, ports],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=without_proxies(os.environ),
        )
        self._forwards.append(process)
        assert process.stdout is not None
        return _forwarded_port(process, process.stdout, what)


def _forwarded_port(process: "subprocess.Popen[str]", output: IO[str], what: str) -> int:
    """Read until kubectl says where it listens, then keep reading in the background so that it never blocks."""
    said: list[str] = []
    timer = threading.Timer(FORWARD_SECONDS, process.terminate)
    timer.start()
    try:
        for line in output:
            if match := FORWARDING.search(line):
                threading.Thread(target=lambda: [None for _ in output], daemon=True).start()
                return int(match[1])
            said.append(line.strip())
    finally:
        timer.cancel()
    raise ClusterError(f"kubectl port-forward {what} did not start: {' '.join(said) or 'it said nothing'}")
