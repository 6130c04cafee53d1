"""What of the cluster is live on this machine, by looking at the machine and not at our records."""

import shutil
from pathlib import Path

from dev.cluster import network, teardown
from dev.cluster.commands import run
from dev.cluster.layout import BRIDGE, POD_CIDR, SERVICE_CIDR, Layout


def find(layout: Layout) -> list[str]:
    """One line per process, mount, namespace, device, route, rule and cgroup that `down` should have removed."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    return [
        *(f"process {pid}: {_command(pid)}" for pid in teardown.stray_processes(layout)),
        *(f"mount {point}" for point in teardown.mounts_below(layout.state, mountinfo)),
        *(f"network namespace {path}" for path in teardown.pod_namespaces()),
        *(f"control group {path}" for path in teardown.pod_cgroups()),
        *([f"device {BRIDGE}"] if network.bridge_exists() else []),
        *(f"route {line.strip()}" for line in run(["ip", "route"]).splitlines() if is_cluster_route(line)),
        *(f"rule {line}" for tool in ("iptables", "ip6tables") for line in _rules(tool)),
        *([f"changed sysctls in {network.former_sysctls_file(layout)}"] if _sysctls_are_changed(layout) else []),
    ]


def is_cluster_route(line: str) -> bool:
    return any(cidr in line for cidr in (POD_CIDR, SERVICE_CIDR)) or f"dev {BRIDGE}" in line


def _rules(tool: str) -> list[str]:
    if shutil.which(f"{tool}-save") is None:
        return []
    return [
        line
        for line in run([f"{tool}-save"]).splitlines()
        if line.startswith((":", "-")) and network.is_cluster_rule(line)
    ]


def _sysctls_are_changed(layout: Layout) -> bool:
    return network.former_sysctls_file(layout).exists()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    except (FileNotFoundError, ProcessLookupError):
        return "(ended meanwhile)"
