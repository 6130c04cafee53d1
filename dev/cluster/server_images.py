"""What the images of Postgres and Kafka add to the base: Debian's packages, installed into a copy of it."""

import json
import shutil
from pathlib import Path
from typing import Final

from dev.cluster.archive import Layer
from dev.cluster.base_image import trim
from dev.cluster.commands import follow, run
from dev.cluster.files import digest_of, made_whole, remove, used, write_if_changed
from dev.cluster.layout import Layout
from dev.cluster.packages import NO_SERVICES
from dev.cluster.progress import Step

PACKAGES: Final = {"postgres": "postgresql-15", "kafka": "openjdk-17-jre-headless"}
# The users of the public images: manifests written for those fit ours.
USERS: Final = {"postgres": ("postgres", 999), "kafka": ("kafka", 1000)}
# The base has no manual pages, but the install scripts link into their directory.
MISSED: Final = ("usr/share/man/man1",)
# A server the package makes for itself; ours is made where the pod's volume is.
UNWANTED: Final = ("var/lib/postgresql/15", "etc/postgresql/15")
# The namespace takes the mount away with the last process, also after a kill.
_IN_ROOT: Final = 'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && exec chroot "$@"'


def additions(name: str, base: Layer, layout: Layout, step: Step) -> tuple[Path, str]:
    """The files that `PACKAGES[name]` and its dependencies add to the base, and a key of them."""
    package, (user, number) = PACKAGES[name], USERS[name]
    texts = (base.digest, package, user, str(number), *MISSED, *UNWANTED)
    key = digest_of(*(text.encode() for text in texts))
    target = layout.cache / "images" / "servers" / f"{name}-{key}"
    if target.exists():
        return used(target), key
    root = layout.cache / "images" / f"{name}-root"
    remove(root)
    root.mkdir(parents=True)
    run(["tar", "-xpf", base.path, "-C", root])
    before = _stamps(root)
    _install(root, package, step)
    trim(root)
    _name_user(root, user, number)
    with made_whole(target) as draft:
        for place, stamp in _stamps(root).items():
            if before.get(place) != stamp:
                _move(root / place, draft / place)
    shutil.rmtree(root)
    return target, key


def _install(root: Path, package: str, step: Step) -> None:
    shutil.copyfile("/etc/resolv.conf", root / "etc" / "resolv.conf")
    write_if_changed(root / "usr" / "sbin" / "policy-rc.d", NO_SERVICES, mode=0o755)
    for directory in MISSED:
        (root / directory).mkdir(parents=True, exist_ok=True)
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "install", package]
    for command in (["apt-get", "-q", "update"], install):
        follow(
            ["unshare", "--mount", "sh", "-c", _IN_ROOT, "sh", root, *environment, *command],
            lambda line: step.note(line[:60]),
            remedy=f"{package} could not be installed into an image. Run the same command again.",
        )
    for unwanted in UNWANTED:
        remove(root / unwanted)
    (root / "usr" / "sbin" / "policy-rc.d").unlink()
    (root / "etc" / "resolv.conf").unlink()


def _name_user(root: Path, user: str, number: int) -> None:
    """initdb wants to know the name of the user it runs as."""
    for file, line in (("passwd", f"{user}:x:{number}:{number}::/tmp:/bin/sh"), ("group", f"{user}:x:{number}:")):
        path = root / "etc" / file
        others = [kept for kept in path.read_text().splitlines() if not kept.startswith(f"{user}:")]
        path.write_text("\n".join([*others, line, ""]))


def _stamps(root: Path) -> dict[str, str]:
    """Files and links below a root with what changes when they change."""
    found = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            status = path.stat()
            found[str(path.relative_to(root))] = json.dumps([status.st_mtime_ns, status.st_size, status.st_ino])
    return found


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
