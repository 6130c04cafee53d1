"""The one layer all images stand on: Debian bookworm with Python, reduced."""

import shutil
from pathlib import Path
from typing import Final

from dev.cluster.archive import Layer, known_layer, tree, write_layer
from dev.cluster.commands import follow
from dev.cluster.files import digest_of, made_whole, remove
from dev.cluster.layout import Layout
from dev.cluster.packages import mirror
from dev.cluster.progress import Step

PACKAGES: Final = ("python3", "ca-certificates")
TRIMMED: Final = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)
# Devices and kernel file systems come from the container's runtime.
EMPTIED: Final = ("dev", "proc", "run", "sys", "tmp")


def build(layout: Layout, step: Step) -> Layer:
    """The base layer from the cache, or made by debootstrap (about a minute)."""
    target = layer_path(layout)
    if not target.exists():
        step.note("debootstrap")
        root = layout.cache / "images" / "base-root"
        packages = layout.cache / "debs"
        remove(root)
        packages.mkdir(parents=True, exist_ok=True)
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}", f"--cache-dir={packages}"]
        follow(
            ["debootstrap", *options, "bookworm", root, mirror()],
            lambda line: step.note(line.removeprefix("I: ")[:60]),
            remedy="debootstrap could not make the base image. Run the same command again to go on.",
        )
        trim(root)
        with made_whole(target) as draft:
            write_layer(tree(root, "."), draft, keep_times=True)
        shutil.rmtree(root)
        step.note("")
    return known_layer(target)


def layer_path(layout: Layout) -> Path:
    key = digest_of(*(text.encode() for text in ("bookworm 1", *PACKAGES, *TRIMMED)))
    return layout.cache / "images" / "base" / f"{key}.tar"


def trim(root: Path) -> None:
    """Delete what no container reads; the directories stay where programs expect them."""
    for name in (*TRIMMED, *EMPTIED):
        directory = root / name
        if directory.is_dir() and not directory.is_symlink():
            for entry in directory.iterdir():
                remove(entry)
