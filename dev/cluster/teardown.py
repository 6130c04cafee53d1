"""Take the cluster down until nothing live is left: processes, mounts, namespaces, devices, rules, routes, cgroups."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dev.cluster import content_store, daemons, network, pki, postgres
from dev.cluster.commands import run, succeeds
from dev.cluster.errors import ClusterError
from dev.cluster.files import remove
from dev.cluster.layout import Layout
from dev.cluster.progress import Progress

CGROUPS: Final = Path("/sys/fs/cgroup")
NAMESPACES: Final = Path("/run/netns")
# Nobody may start or restart a container while containers are removed.
STARTERS: Final = ("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager")
SHIM: Final = "containerd-shim-runc-v2"
POD_GRACE_SECONDS: Final = 2.0
# The next `up` starts with empty servers, so that a test or a demo can be repeated. Images stay, they cost most.
DATA: Final = ("etcd", "kubelet", "podlogs", "ipam", "postgres", "memory", "kafka", "kube", "cfg", "run")


def take_down(layout: Layout, progress: Progress) -> None:
    """Idempotent. Raises ClusterError when something live stays."""
    with progress.step("kubelet, controllers, pods"):
        daemons.stop(STARTERS, layout)
        _end_pods()
        _remove_containers(layout)
    with progress.step("servers"):
        daemons.stop(daemons.recorded(layout), layout)
        end_strays(layout)
    with progress.step("mounts, cgroups, network"):
        unmount_below(layout.state)
        _remove_namespaces()
        _remove_cgroups()
        if network.former_sysctls_file(layout).exists():
            network.drop_bridge()
            network.drop_guard(layout)
    with progress.step("data"):
        pki.drop_certificates(layout)
        for name in DATA:
            remove(layout.state / name)


def purge(layout: Layout) -> None:
    """After `take_down`: the images and logs, too. The caches of builds and packages are kept elsewhere."""
    remove(layout.state)


def end_strays(layout: Layout) -> None:
    """Processes that no pid file knows: shims, and daemons whose start was cut off before it was recorded."""
    strays = list(stray_processes(layout))
    for pid in strays:
        daemons.send(pid, signal.SIGTERM)
    daemons.end(strays, layout, seconds=5)


def end_unrecorded(layout: Layout) -> None:
    """Daemons whose start was cut off before their pid was written: a second start would meet their ports."""
    known = {daemons.pid_of(name, layout) for name in daemons.recorded(layout)}
    strays = [pid for pid in stray_processes(layout) if pid not in known and not _is_shim(pid)]
    for pid in strays:
        daemons.send(pid, signal.SIGTERM)
    daemons.end(strays, layout, seconds=5)


def stray_processes(layout: Layout) -> Iterator[int]:
    """Pids of our daemons and of containerd's shims; never of a person's editor or shell that names the directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and daemons.is_ours(int(entry.name), layout) and _is_program_of_ours(entry, layout):
            yield int(entry.name)


def is_daemon_command(arguments: list[str], layout: Layout) -> bool:
    """Whether a command line is one that only this package starts."""
    program = Path(arguments[0]).name
    if program == SHIM:
        return str(layout.containerd_socket) in arguments
    if program.startswith("postgres") or program == "setpriv":
        return any(str(postgres.data_directory(layout, durable=durable)) in arguments for durable in (True, False))
    if program == "java":
        return f"-Dmarty.state={layout.state}/" in arguments
    if program == "containerd":
        return f"{layout.configs}/containerd.toml" in arguments
    return (
        arguments[0].startswith(f"{layout.cache}/bin/") and program in ("k8s", "coredns") and "kubectl" not in arguments
    )


def unmount_below(root: Path) -> None:
    """Deepest first; a busy mount is detached, its user is gone or going."""
    for point in reversed(mounts_below(root, Path("/proc/self/mountinfo").read_text())):
        if not succeeds(["umount", point]):
            run(["umount", "-l", point])


def mounts_below(root: Path, mountinfo: str) -> list[str]:
    """Mount points at or below `root`, in the order in which they were mounted."""
    points = [line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines() if line]
    return [point for point in points if Path(point).is_relative_to(root)]


def pod_cgroups() -> list[Path]:
    """Control groups of pods in every hierarchy, deepest first."""
    tops = [*CGROUPS.glob("kubepods*"), *CGROUPS.glob("*/kubepods*")]
    # os.walk passes over groups that go while it looks, as they do while pods end; Path.rglob raises.
    found = {Path(path) for top in tops for path, _, _ in os.walk(top)}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def pod_namespaces() -> list[Path]:
    return sorted(NAMESPACES.glob("cni-*"))


def _end_pods() -> None:
    for what in (signal.SIGTERM, signal.SIGKILL):
        for pid in _pod_pids():
            daemons.send(pid, what)
        if daemons.await_gone(_pod_pids, POD_GRACE_SECONDS):
            return


def _pod_pids() -> list[int]:
    pids: set[int] = set()
    for group in pod_cgroups():
        try:
            pids.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
        except OSError:
            continue  # the group went while we looked
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _is_shim(pid: int) -> bool:
    return SHIM.encode() in _command(Path(f"/proc/{pid}"))


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_program_of_ours(entry: Path, layout: Layout) -> bool:
    arguments = _command(entry).decode(errors="replace").split("\0")
    return int(entry.name) != os.getpid() and is_daemon_command(arguments, layout)


def _remove_containers(layout: Layout) -> None:
    if daemons.pid_of("containerd", layout) is None:
        # Its records of containers would be those of a dead machine; without them a start is clean.
        if (layout.run / "pids" / "containerd.pid").exists():
            remove(layout.state / "containerd")
        return
    try:
        content_store.remove_containers(layout)
    except ClusterError:  # a shim that was killed: its record is of no use, and neither are those beside it
        daemons.stop(["containerd"], layout)
        end_strays(layout)
        unmount_below(layout.state)
        remove(layout.state / "containerd")


def _remove_namespaces() -> None:
    for namespace in pod_namespaces():
        succeeds(["umount", namespace])
        namespace.unlink(missing_ok=True)
    if NAMESPACES.exists() and not any(NAMESPACES.iterdir()):
        for _ in mounts_below(NAMESPACES, Path("/proc/self/mountinfo").read_text()):
            succeeds(["umount", NAMESPACES])
        NAMESPACES.rmdir()


def _remove_cgroups() -> None:
    """A group can be removed a moment after its last process ended, not at once."""
    deadline = time.monotonic() + 5
    while groups := pod_cgroups():
        for group in groups:
            try:
                group.rmdir()
            except OSError:
                continue
        if time.monotonic() > deadline:
            raise ClusterError(f"control groups stay busy: {', '.join(str(group) for group in groups[:3])}")
        time.sleep(daemons.POLL_SECONDS)
