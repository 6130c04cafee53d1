"""The node's bridge, its routes, and the guard that lets no cluster address leave this machine."""

import json
import socket
from pathlib import Path
from typing import Final

from dev.cluster.commands import run, succeeds
from dev.cluster.errors import ClusterError
from dev.cluster.files import write_if_changed
from dev.cluster.layout import BRIDGE, NODE_IP, POD_CIDR, SERVICE_CIDR, Layout

GUARD: Final = "MARTY-GUARD"
# Used only while the bridge is absent: then cluster addresses are unreachable instead of leaving by the default route.
FALLBACK_METRIC: Final = "4294967290"
# An untranslated Service address is refused at once; pods reach this machine and nothing behind it.
GUARD_RULES: Final = (
    ("-d", SERVICE_CIDR, "!", "-o", BRIDGE, "-j", "REJECT"),
    ("-d", SERVICE_CIDR, "-j", "REJECT"),
    ("-s", POD_CIDR, "!", "-o", BRIDGE, "-m", "addrtype", "!", "--src-type", "LOCAL", "-j", "REJECT"),
)
HOOKS: Final = ("OUTPUT", "FORWARD")
WANTED_SYSCTLS: Final = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
# The kubelet and kube-proxy set these; `down` puts the former values back.
TOUCHED_SYSCTLS: Final = (
    *WANTED_SYSCTLS,
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "net/ipv4/conf/all/route_localnet",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
SYSCTL_ROOT: Final = Path("/proc/sys")


def bridge_exists() -> bool:
    return BRIDGE in (name for _, name in socket.if_nameindex())


def former_sysctls_file(layout: Layout) -> Path:
    """Its presence says that this machine's network is ours until `down`."""
    return layout.state / "former-sysctls.json"


def raise_network(layout: Layout) -> None:
    """Guard first, then the bridge; idempotent. ClusterError when somebody else's cluster uses the same names."""
    if bridge_exists() and not former_sysctls_file(layout).exists():
        raise ClusterError(
            f"the network device {BRIDGE} exists and is not ours: another cluster runs on this machine. "
            "Stop it first; two cannot share the addresses"
        )
    _load_modules()
    _save_sysctls(layout)
    for cidr in (SERVICE_CIDR, POD_CIDR):
        run(["ip", "route", "replace", "unreachable", cidr, "metric", FALLBACK_METRIC])
    _raise_guard()
    for name, value in WANTED_SYSCTLS.items():
        (SYSCTL_ROOT / name).write_text(value)
    if not bridge_exists():
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "replace", f"{NODE_IP}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    run(["ip", "route", "replace", SERVICE_CIDR, "dev", BRIDGE, "src", NODE_IP])


def drop_bridge() -> None:
    """The bridge and the pods' ends of their cables."""
    if bridge_exists():
        for port in json.loads(run(["ip", "-json", "link", "show", "master", BRIDGE]) or "[]"):
            succeeds(["ip", "link", "delete", port["ifname"]])
        run(["ip", "link", "delete", BRIDGE])


def drop_guard(layout: Layout) -> None:
    """The last thing to go: rules, routes, then the sysctls as they were."""
    succeeds(["ip", "route", "flush", "root", SERVICE_CIDR])
    for cidr in (SERVICE_CIDR, POD_CIDR):
        succeeds(["ip", "route", "delete", "unreachable", cidr, "metric", FALLBACK_METRIC])
    _filter_rules("iptables")
    _filter_rules("ip6tables")
    saved = former_sysctls_file(layout)
    if saved.exists():
        for name, value in json.loads(saved.read_text()).items():
            path = SYSCTL_ROOT / name
            if path.exists() and path.read_text().strip() != value:
                path.write_text(value)
        saved.unlink()


def without_cluster_rules(saved: str) -> str:
    """The text of iptables-save without the chains of Kubernetes, its network plugins and the guard."""
    kept = [line for line in saved.splitlines() if not line.startswith("#") and not is_cluster_rule(line)]
    return "\n".join([*kept, ""])


def is_cluster_rule(line: str) -> bool:
    return any(name in line for name in ("KUBE-", "CNI-", GUARD))


def _raise_guard() -> None:
    present = run(["iptables-save", "-t", "filter"])
    wanted = [f"-A {hook} -j {GUARD}" for hook in HOOKS]
    if all(line in present for line in wanted) and present.count(f"-A {GUARD} ") == len(GUARD_RULES):
        return
    succeeds(["iptables", "-w", "-N", GUARD])
    run(["iptables", "-w", "-F", GUARD])
    for rule in GUARD_RULES:
        run(["iptables", "-w", "-A", GUARD, *rule])
    for hook in HOOKS:
        if not succeeds(["iptables", "-w", "-C", hook, "-j", GUARD]):
            run(["iptables", "-w", "-I", hook, "-j", GUARD])


def _filter_rules(tool: str) -> None:
    saved = run([f"{tool}-save"])
    if any(is_cluster_rule(line) for line in saved.splitlines()):
        run([f"{tool}-restore", "-w"], stdin=without_cluster_rules(saved))


def _load_modules() -> None:
    if not (SYSCTL_ROOT / "net/bridge").exists():
        run(["modprobe", "br_netfilter"], remedy="Use a kernel with the bridge netfilter module.")
    if "overlay" not in Path("/proc/filesystems").read_text():
        run(["modprobe", "overlay"], remedy="Use a kernel with the overlay file system.")


def _save_sysctls(layout: Layout) -> None:
    saved = former_sysctls_file(layout)
    if not saved.exists():
        paths = {name: SYSCTL_ROOT / name for name in TOUCHED_SYSCTLS}
        values = {name: path.read_text().strip() for name, path in paths.items() if path.exists()}
        write_if_changed(saved, json.dumps(values, indent=1))
