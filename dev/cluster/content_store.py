"""containerd's image store: what it holds and how images get in."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dev.cluster.commands import run
from dev.cluster.errors import ClusterError
from dev.cluster.layout import Layout

NAMESPACE: Final = "k8s.io"
REMOVAL_ATTEMPTS: Final = 8


def image_names(layout: Layout) -> set[str]:
    return set(_ctr(layout, "images", "list", "-q").split())


def blob_digests(layout: Layout) -> set[str]:
    """`sha256:...` of every blob the store holds, so that an archive may leave these out."""
    return set(_ctr(layout, "content", "list", "-q").split())


def import_archive(layout: Layout, archive: Path) -> None:
    """Load an image archive and unpack it; blobs that are missing in the archive must be in the store."""
    _ctr(layout, "images", "import", "--snapshotter", "overlayfs", str(archive))


def remove_images(layout: Layout, names: Iterable[str]) -> None:
    names = list(names)
    if names:
        _ctr(layout, "images", "remove", *names)


def is_ready(layout: Layout) -> bool:
    return layout.containerd_socket.is_socket() and _succeeds(layout, "version")


def remove_containers(layout: Layout) -> None:
    """Every task and container of the namespace with its writable layer; images stay.

    ClusterError when some stay after several attempts: containerd drops the task of a process that ended by itself,
    too, and whoever comes second gets an error.
    """
    for attempt in range(REMOVAL_ATTEMPTS):
        for task in _ctr(layout, "tasks", "list", "-q").split():
            _succeeds(layout, "tasks", "delete", "-f", task)
        containers = _ctr(layout, "containers", "list", "-q").split()
        if not containers or _succeeds(layout, "containers", "delete", *containers):
            return
        time.sleep(0.1 * attempt)
    raise ClusterError(f"containerd does not let go of {len(containers)} containers")


def _succeeds(layout: Layout, *arguments: str) -> bool:
    try:
        _ctr(layout, *arguments)
    except ClusterError:
        return False
    return True


def _ctr(layout: Layout, *arguments: str) -> str:
    return run(["ctr", "-a", layout.containerd_socket, "-n", NAMESPACE, *arguments])
