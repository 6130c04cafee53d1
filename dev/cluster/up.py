"""Bring the cluster up: what needs what, and how each part is known to work."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from dev.cluster import (
    api,
    binaries,
    content_store,
    control_plane,
    daemons,
    kafka,
    network,
    packages,
    pause_image,
    pki,
    postgres,
)
from dev.cluster.configs import kubernetes_configs
from dev.cluster.daemons import Daemon
from dev.cluster.errors import ClusterError
from dev.cluster.files import write_if_changed
from dev.cluster.layout import ETCD_URL, KAFKA_CLUSTER_PORT, KAFKA_PORT, LOOPBACK, NODE_IP, Layout
from dev.cluster.progress import Step
from dev.cluster.tasks import Task


def server_tasks(layout: Layout, names: frozenset[str], *, bridge: bool, durable: bool = True) -> list[Task]:
    """Postgres and Kafka, or one of them. With `bridge` they wait for the task `network`; `durable`: see postgres.daemon."""
    needs = ("packages", "network") if bridge else ("packages",)
    tasks = []
    if "postgres" in names:
        tasks.append(Task("postgres", "PostgreSQL", lambda _: _postgres(layout, bridge, durable), needs))
    if "kafka" in names:
        tasks.append(Task("jars", "Kafka's jars", lambda step: _ignore(kafka.fetch(layout, step)), ("packages",)))
        tasks.append(Task("kafka", "Kafka", lambda _: _kafka(layout, bridge), (*needs, "jars")))
    return tasks


def packages_task(wanted: dict[str, str]) -> Task:
    return Task("packages", "Debian packages", lambda step: packages.install(wanted, step))


def cluster_tasks(layout: Layout) -> list[Task]:
    """Everything of Kubernetes, to be run together with `server_tasks(bridge=True)`."""

    def build(program: binaries.Program) -> Callable[[Step], None]:
        return lambda step: _ignore(binaries.build(program, layout, step))

    def part(daemon: Callable[[Layout], Daemon], ready: Callable[[], bool]) -> Callable[[Step], None]:
        return lambda _: _run(daemon(layout), layout, ready)

    # One Go build after the other: each keeps all cores busy by itself, and the longest must not be last.
    builds = [
        Task("k8s", "Kubernetes and etcd (Go build)", build(binaries.KUBERNETES)),
        Task("coredns-build", "CoreDNS (Go build)", build(binaries.COREDNS), ("k8s",)),
        Task("helm", "Helm (Go build)", build(binaries.HELM), ("coredns-build",)),
        Task("pause", "pause (Go build)", build(binaries.PAUSE)),
    ]
    basis = [
        Task("network", "bridge, routes, network guard", lambda _: network.raise_network(layout), ("packages",)),
        Task("configs", "certificates and configuration", lambda _: _configure(layout), ("packages",)),
        Task("programs", "kubectl and helm", lambda _: binaries.link(layout), ("helm",)),
    ]
    ready = "/healthz"
    parts = [
        Task("etcd", "etcd", part(control_plane.etcd, lambda: api.answers(f"{ETCD_URL}/health")), ("k8s", "network")),
        Task("containerd", "containerd", lambda _: _containerd(layout), ("configs", "network")),
        Task("pause-image", "pause image", lambda _: pause_image.load(layout), ("containerd", "pause")),
        Task("apiserver", "API server", lambda _: _apiserver(layout), ("etcd", "configs")),
        Task(
            "controllers",
            "controller manager",
            part(control_plane.controller_manager, lambda: api.Api(layout).default_account_exists()),
            ("apiserver",),
        ),
        Task(
            "scheduler", "scheduler", part(control_plane.scheduler, lambda: _listens(LOOPBACK, 10259)), ("apiserver",)
        ),
        Task("kubelet", "kubelet", lambda _: _kubelet(layout), ("apiserver", "containerd", "pause-image")),
        Task("node", "node is ready", lambda _: _node(layout), ("kubelet",)),
        Task(
            "proxy",
            "kube-proxy",
            part(
                control_plane.proxy_daemon,
                lambda: api.services_are_programmed() and api.answers(f"http://{LOOPBACK}:10256{ready}"),
            ),
            ("kubelet",),
        ),
        Task("coredns", "CoreDNS", part(control_plane.coredns, api.dns_is_ready), ("kubelet", "coredns-build")),
    ]
    return [*builds, *basis, *parts]


def require_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("the cluster needs root (bridge, mounts, cgroups): run it with sudo or as root")


def _run(daemon: Daemon, layout: Layout, ready: Callable[[], bool], seconds: float = 60) -> None:
    daemons.start(daemon, layout)
    daemons.await_ready(daemon.name, layout, ready, seconds=seconds)


def _postgres(layout: Layout, bridge: bool, durable: bool) -> None:
    postgres.prepare(layout, bridge=bridge, durable=durable)
    _run(postgres.daemon(layout, bridge=bridge, durable=durable), layout, postgres.is_ready)


def _kafka(layout: Layout, bridge: bool) -> None:
    kafka.prepare(layout, bridge=bridge)
    _run(kafka.daemon(layout, bridge=bridge), layout, lambda: kafka.is_ready(layout))
    hosts = {LOOPBACK: KAFKA_PORT} | ({NODE_IP: KAFKA_CLUSTER_PORT} if bridge else {})
    if not all(_listens(host, port) for host, port in hosts.items()):
        raise ClusterError(f"Kafka runs but does not listen on {hosts}; see {daemons.log_file('kafka', layout)}")


def _configure(layout: Layout) -> None:
    pki.make_certificates(layout)
    for path, text in kubernetes_configs(layout).items():
        write_if_changed(path, text)


def _containerd(layout: Layout) -> None:
    _run(control_plane.containerd_daemon(layout), layout, lambda: content_store.is_ready(layout))


def _apiserver(layout: Layout) -> None:
    server = api.Api(layout)
    if daemons.start(control_plane.apiserver(layout), layout):
        daemons.await_ready("kube-apiserver", layout, server.is_ready, seconds=90)
        server.apply_access_rules()
    daemons.await_ready("kube-apiserver", layout, server.is_ready, seconds=60)


def _kubelet(layout: Layout) -> None:
    _run(control_plane.kubelet_daemon(layout), layout, api.Api(layout).node_has_address)


def _node(layout: Layout) -> None:
    started = datetime.fromtimestamp(daemons.started_at("kubelet", layout), UTC)
    server = api.Api(layout)
    daemons.await_ready("kubelet", layout, lambda: server.node_is_ready(started), seconds=60)


def _listens(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _ignore(_: object) -> None:
    """Tasks return nothing; what they made is found at its path."""
