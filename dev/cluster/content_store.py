"""containerd's image store: what it holds and how images get in."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dev.cluster.commands import run
from dev.cluster.errors import ClusterError
from dev.cluster.layout import Layout

NAMESPACE: Final = "k8s.io"


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
    return layout.containerd_socket.is_socket() and _answers(layout)


def remove_containers(layout: Layout) -> None:
    """Every task and container of the namespace with its writable layer; images stay."""
    for task in _ctr(layout, "tasks", "list", "-q").split():
        _ctr(layout, "tasks", "delete", "-f", task)
    containers = _ctr(layout, "containers", "list", "-q").split()
    if containers:
        _ctr(layout, "containers", "delete", *containers)


def _answers(layout: Layout) -> bool:
    try:
        _ctr(layout, "version")
    except ClusterError:
        return False
    return True


def _ctr(layout: Layout, *arguments: str) -> str:
    return run(["ctr", "-a", layout.containerd_socket, "-n", NAMESPACE, *arguments])
