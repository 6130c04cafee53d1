"""Image layers and image archives, written so that equal contents give equal bytes; no container tool is needed."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dev.cluster.files import used, write_if_changed

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
# containerd gives the image the name in this annotation.
NAME_ANNOTATION: Final = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Layer:
    """One uncompressed layer file; `digest` is `sha256:<hex>` of its bytes."""

    digest: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Image:
    """Layers from the bottom up and the part of the image's configuration that says how it runs."""

    layers: tuple[Layer, ...]
    run_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> bytes:
        return _json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": dict(self.run_config),
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
                "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "COPY"} for _ in self.layers],
            }
        )

    @property
    def key(self) -> str:
        """12 hex digits of the configuration, which names every layer: the image's content, as a tag."""
        return hashlib.sha256(self.config).hexdigest()[:12]


def write_layer(entries: Iterable[tuple[str, Path]], target: Path, *, keep_times: bool = False) -> Layer:
    """Tar `(path in the image, file on this machine)` pairs, in that order, owned by root.

    Times are set to zero unless kept: Debian's compiled Python files are valid only for their sources' times.
    """
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, source in entries:
            info = tar.gettarinfo(source, arcname=name)
            if not keep_times:
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = 0
                info.mode = _plain_mode(info)
            if info.isreg():
                with source.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
    return read_layer(target)


def read_layer(path: Path) -> Layer:
    with path.open("rb") as file:
        return Layer(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", path.stat().st_size, path)


def known_layer(path: Path) -> Layer:
    """As read_layer, with the digest kept beside the file, which is never changed: reading 130 MB takes a while."""
    note = path.with_suffix(".digest")
    if note.exists():
        used(note)
        used(path)
        return Layer(note.read_text(), path.stat().st_size, path)
    layer = read_layer(path)
    write_if_changed(note, layer.digest)
    return layer


def tree(root: Path, prefix: str) -> list[tuple[str, Path]]:
    """Every file and directory below `root`, as entries below `prefix`, sorted; links are kept as links."""
    parents = [str(parent) for parent in reversed(Path(prefix).parents) if str(parent) != "."]
    found = [(parent, root) for parent in [*parents, prefix] if parent != "."]
    below = sorted(root.rglob("*"))
    return [*found, *((str(Path(prefix, path.relative_to(root))), path) for path in below)]


def write_archive(images: Mapping[str, Image], target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """An archive of several images, readable as OCI layout and by `docker load`.

    `leave_out`: digests of layers the reader already has. Such an archive suits containerd only.
    """
    index, listing = [], []
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        written: set[str] = set()
        for name, image in images.items():
            for layer in image.layers:
                if layer.digest not in written and layer.digest not in leave_out:
                    written.add(layer.digest)
                    tar.add(layer.path, arcname=blob_path(layer.digest), filter=_anonymous)
            manifest = _manifest(image)
            _add(tar, blob_path(_digest(image.config)), image.config)
            _add(tar, blob_path(_digest(manifest)), manifest)
            index.append({**_descriptor(MANIFEST_TYPE, manifest), "annotations": {NAME_ANNOTATION: name}})
            layers = [blob_path(layer.digest) for layer in image.layers]
            listing.append({"Config": blob_path(_digest(image.config)), "RepoTags": [name], "Layers": layers})
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": index}))
        if not leave_out:
            _add(tar, "manifest.json", _json(listing))


def blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _manifest(image: Image) -> bytes:
    layers: Sequence[dict[str, Any]] = [
        {"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in image.layers
    ]
    config = _descriptor(CONFIG_TYPE, image.config)
    return _json({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers})


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _plain_mode(info: tarfile.TarInfo) -> int:
    """Independent of the checkout's umask: readable by the image's user, executable when it was."""
    return 0o755 if info.isdir() or info.mode & 0o100 else 0o644
