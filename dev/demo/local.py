"""The local cluster of this repository as the demo's target. Postgres and Kafka run beside it, on the node's address."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dev.cluster import postgres
from dev.cluster.errors import ClusterError
from dev.cluster.layout import KAFKA_CLUSTER_PORT, KAFKA_PORT, LOOPBACK, NODE_IP, POSTGRES_PORT, Layout
from dev.demo.kubectl import Kubectl
from dev.demo.manifests import NAMESPACE, outside_service
from dev.demo.target import Images, Pod, Servers

PROC: Final = Path("/proc")


class LocalCluster:
    """Expects the cluster to be up (`python3 -m dev.cluster up`) and the images to be loaded."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        kubeconfig = str(layout.kubeconfig("admin"))
        self.kubectl = Kubectl(str(layout.programs / "kubectl"), ("--kubeconfig", kubeconfig))
        self.helm = (str(layout.programs / "helm"), "--kubeconfig", kubeconfig)
        self.name = "the local cluster"

    def images(self) -> Images:
        names = json.loads(self._layout.images_json.read_text())
        return Images(names["operator"], names["runtime"], names["shop"])

    def servers(self) -> Servers:
        self.kubectl.apply(
            [
                *outside_service("postgres", 5432, NODE_IP, POSTGRES_PORT),
                *outside_service("kafka", 9092, NODE_IP, KAFKA_CLUSTER_PORT),
            ]
        )
        return Servers(postgres.url(self._layout), f"{LOOPBACK}:{KAFKA_PORT}")

    def url(self, service: str) -> str:
        """A ClusterIP answers on this machine too: it is the node."""
        found = self.kubectl.json("get", "service", service, "-n", NAMESPACE)
        return f"http://{found['spec']['clusterIP']}"

    def advice(self, service: str) -> str:
        return self.url(service)

    def kill(self, pods: Sequence[Pod]) -> None:
        """The containers are processes of this machine: all are looked up first, then ended together."""
        found = {pod.name: container_processes(pod.container_id, PROC) for pod in pods}
        for name, pids in found.items():
            if not pids:
                raise ClusterError(f"pod {name} has no process on this machine: it ended by itself")
        for pids in found.values():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Nothing was opened."""


def container_processes(container_id: str, proc: Path) -> list[int]:
    """Pids of the processes in the container's control group, the lowest (its first process) at the front."""
    found = []
    for directory in proc.iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            groups = (directory / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if any(line.endswith(f"/{container_id}") for line in groups.splitlines()):
            found.append(int(directory.name))
    return sorted(found)
