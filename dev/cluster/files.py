"""Files that are either whole or absent, also after a kill -9."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

UNUSED_SECONDS: Final = 14 * 24 * 3600.0


def write_if_changed(path: Path, text: str, *, mode: int = 0o644) -> bool:
    """Replace the file in one step and only when its text differs; True when it was written.

    Unchanged files are not touched because kube-proxy ends itself when its configuration is rewritten.
    """
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
    return True


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """A draft path beside `target`, renamed to it when the block ends well and removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.draft-*"):
        remove(stale)
    draft = target.with_name(f".{target.name}.draft-{os.getpid()}")
    try:
        yield draft
        draft.rename(target)
    finally:
        remove(draft)


def remove(path: Path) -> None:
    """Delete a file or a tree; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def used(path: Path) -> Path:
    """Note that a cache entry was used now, and drop its neighbours that nobody used for two weeks."""
    path.touch()
    oldest = time.time() - UNUSED_SECONDS
    for neighbour in path.parent.iterdir():
        if neighbour.stat(follow_symlinks=False).st_mtime < oldest:
            remove(neighbour)
    return path


def digest_of(*contents: bytes) -> str:
    """16 hex digits that change when any of the contents, or their borders, change."""
    total = hashlib.sha256()
    for content in contents:
        total.update(len(content).to_bytes(8, "big"))
        total.update(content)
    return total.hexdigest()[:16]
