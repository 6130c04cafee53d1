"""Where the demo runs: what the flow asks of a cluster, and the values that it gets back."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dev.cluster.errors import ClusterError
from dev.demo.kubectl import Kubectl
from dev.demo.manifests import NAMESPACE

OPERATOR_NAMESPACE: Final = "marty-system"
#: Role of the worker to its resource in the shop.
RESOURCES: Final = {"Saga": "order-processing", "OutboxRelay": "shop", "Projection": "order-summary"}

#: Label selector of every worker pod.
WORKERS: Final = "app.kubernetes.io/managed-by=marty-operator,marty.dev/kind"


@dataclass(frozen=True, slots=True)
class Images:
    """The images of this checkout, as the cluster can run them."""

    operator: str
    runtime: str
    shop: str


@dataclass(frozen=True, slots=True)
class Servers:
    """How the runner itself reaches Postgres (as administrator) and Kafka. Pods use `postgres:5432` and `kafka:9092`."""

    admin_url: str = field(repr=False)
    bootstrap: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One running worker pod."""

    name: str
    #: Another one after a restart.
    container_id: str
    restarts: int


class Target(Protocol):
    """A cluster the demo can use. The methods block; the flow calls them in threads."""

    kubectl: Kubectl

    @property
    def helm(self) -> tuple[str, ...]:
        """The helm command with the options that name the cluster."""

    @property
    def name(self) -> str: ...

    def images(self) -> Images: ...

    def servers(self) -> Servers:
        """Make Postgres and Kafka reachable as Services of the shop's namespace, and from here."""

    def url(self, service: str) -> str:
        """Base URL of a Service of the shop's namespace, from here, until `close`."""

    def advice(self, service: str) -> str:
        """How a person reaches the Service when the demo is over."""

    def kill(self, pods: Sequence[Pod]) -> None:
        """End the workers with -9, all at the same moment as nearly as possible."""

    def close(self) -> None: ...


def worker_pods(kubectl: Kubectl, kind: str) -> list[Pod]:
    """The running, ready worker pods of the shop's resource of this kind."""
    labels = f"{WORKERS}={kind},marty.dev/name={RESOURCES[kind]}"
    return [pod for item in kubectl.items("pods", NAMESPACE, "-l", labels) if (pod := ready_pod(item)) is not None]


def ready_pod(item: Mapping[str, Any]) -> Pod | None:
    """The pod, None while it is not ready or already being deleted."""
    statuses = item["status"].get("containerStatuses", [])
    if len(statuses) != 1 or not statuses[0]["ready"] or "deletionTimestamp" in item["metadata"]:
        return None
    identity = statuses[0]["containerID"].rpartition("/")[2]
    return Pod(item["metadata"]["name"], identity, statuses[0]["restartCount"])


def steadiest_pod(kubectl: Kubectl, kind: str, seconds: float) -> Pod:
    """The ready worker with the fewest restarts: kubelet lets one that ended often wait ever longer.

    ClusterError when no worker pod of the kind is ready in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := worker_pods(kubectl, kind)):
        if time.monotonic() > deadline:
            raise ClusterError(f"no {kind} worker pod became ready within {seconds:.0f} s")
        time.sleep(0.2)
    return min(found, key=lambda pod: pod.restarts)
