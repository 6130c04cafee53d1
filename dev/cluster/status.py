"""Which parts run, where, and whether those that should run do."""

import json
from dataclasses import asdict, dataclass

from dev.cluster import control_plane, daemons, kafka, network, postgres
from dev.cluster.daemons import Daemon
from dev.cluster.layout import Layout


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    state: str
    pid: int | None
    address: str

    @property
    def is_wrong(self) -> bool:
        return self.state == "down"


def parts(layout: Layout) -> list[Part]:
    """`off`: not asked for since the last `down`; `down`: gone, or left out by a start that was cut off."""
    started = set(daemons.recorded(layout))
    cluster = [daemon.name for daemon in _kubernetes(layout)]
    expected = started | (set(cluster) if started.intersection(cluster) else set())
    return [_part(daemon, expected, layout) for daemon in (*_kubernetes(layout), *_servers(layout))]


def table(found: list[Part]) -> str:
    rows = [("PART", "STATE", "PID", "ADDRESS"), *((p.name, p.state, str(p.pid or "-"), p.address) for p in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "   ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def as_json(found: list[Part]) -> str:
    return json.dumps([asdict(part) for part in found], indent=2)


def _kubernetes(layout: Layout) -> list[Daemon]:
    return [
        control_plane.etcd(layout),
        control_plane.apiserver(layout),
        control_plane.controller_manager(layout),
        control_plane.scheduler(layout),
        control_plane.containerd_daemon(layout),
        control_plane.kubelet_daemon(layout),
        control_plane.proxy_daemon(layout),
        control_plane.coredns(layout),
    ]


def _servers(layout: Layout) -> list[Daemon]:
    bridge = network.bridge_exists()
    return [
        postgres.daemon(layout, bridge=bridge),
        kafka.daemon(layout, bridge=bridge),
    ]


def _part(daemon: Daemon, expected: set[str], layout: Layout) -> Part:
    pid = daemons.pid_of(daemon.name, layout)
    absent = "down" if daemon.name in expected else "off"
    return Part(daemon.name, absent if pid is None else "running", pid, daemon.address)
