"""Debian packages the cluster is made of; installs what is missing."""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dev.cluster.commands import follow, run
from dev.cluster.errors import ClusterError
from dev.cluster.files import write_if_changed
from dev.cluster.progress import Step

SERVERS: Final = {
    "postgresql-15": "the database",
    "openjdk-17-jre-headless": "Kafka",
    "maven": "fetches Kafka's jars",
    "procps": "sysctl",
    "redis-server": "the step cache that processes share, in tests",
}
KUBERNETES: Final = {
    "containerd": "runs the containers",
    "runc": "starts a container",
    "containernetworking-plugins": "pod network",
    "iptables": "Services and the network guard",
    "conntrack": "kube-proxy's connection tables",
    "iproute2": "bridge and routes",
    "openssl": "certificates",
    "kmod": "loads br_netfilter and overlay where they are modules",
}
IMAGES: Final = {"debootstrap": "the base of the images"} | (
    {} if find_spec("ensurepip") else {"python3-venv": "pip, for the images' Python packages"}
)
# Somebody else's apt may be at work; wait for it rather than fail.
PATIENT: Final = ("-o", "DPkg::Lock::Timeout=300")
# Exit code 101 tells Debian's install scripts not to start the packages' own services beside ours.
NO_SERVICES: Final = "#!/bin/sh\nexit 101\n"
POLICY: Final = Path("/usr/sbin/policy-rc.d")


def missing(wanted: dict[str, str]) -> list[str]:
    """The wanted packages that are not installed, in the given order."""
    status = Path("/var/lib/dpkg/status")
    if not status.exists() or shutil.which("apt-get") is None:
        raise ClusterError("this is not a Debian system: the local cluster needs Debian 12 (bookworm)")
    installed = installed_packages(status.read_text(errors="replace"))
    return [name for name in wanted if name not in installed]


def installed_packages(status: str) -> set[str]:
    """Names of the installed packages in the text of dpkg's status file."""
    return set(re.findall(r"^Package: (\S+)\nStatus: \S+ ok installed$", status, re.MULTILINE))


def install(wanted: dict[str, str], step: Step) -> None:
    """Install what is missing of `wanted`; needs root only when something is."""
    names = missing(wanted)
    if not names:
        return
    if os.geteuid() != 0:
        raise ClusterError(f"missing packages: {' '.join(names)}. Install them or run this as root")
    step.note("apt-get update")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    remedy = "Check the machine's apt sources, then run the same command again: it goes on where it stopped."
    run(["apt-get", "-q", *PATIENT, "update"], environment=environment, remedy=remedy)
    own_policy = not POLICY.exists()
    if own_policy:
        write_if_changed(POLICY, NO_SERVICES, mode=0o755)
    try:
        follow(
            ["apt-get", "-q", "-y", *PATIENT, "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "install", *names],
            lambda line: step.note(line[:60]),
            environment=environment,
            remedy=remedy,
        )
    finally:
        if own_policy:
            POLICY.unlink(missing_ok=True)
    step.note("for " + ", ".join(wanted[name] for name in names))


def mirror() -> str:
    """The address of the Debian archive this machine already uses."""
    listed = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    )
    for line in listed.splitlines():
        address, _, rest = line.partition(" ")
        if rest == "bookworm main":
            return address
    raise ClusterError("apt knows no archive of Debian bookworm (main): add one to /etc/apt/sources.list.d")
