"""Our images: a Dockerfile each, layers cached by content, loaded into the cluster without a registry."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from dev.cluster import content_store, daemons, kafka, server_images, wheels
from dev.cluster.archive import Image, Layer, known_layer, tree, write_archive, write_layer
from dev.cluster.dockerfile import Copy, Recipe, parse
from dev.cluster.files import digest_of, made_whole, used, write_if_changed
from dev.cluster.layout import REPOSITORY, Layout
from dev.cluster.progress import Step
from dev.cluster.wheels import Requirements

DOCKERFILES: Final = REPOSITORY / "dev" / "images"
# Image purpose to the source packages its code layer holds.
CODE: Final[Mapping[str, tuple[str, ...]]] = {
    "operator": ("runtime/marty_msf", "operator/marty_operator"),
    "runtime": ("runtime/marty_msf",),
    "shop": ("examples/shop/shop",),
}
SERVERS: Final = tuple(server_images.PACKAGES)
TARGET: Final = "/app/code"


@dataclass(frozen=True, slots=True)
class Context:
    """The build context: names of its directories to where they are and a key of their content."""

    directories: Mapping[str, tuple[Path, str]]

    def copy_to(self, target: Path) -> None:
        """As plain files, for other builders (`docker build -f dev/images/Dockerfile.runtime TARGET`)."""
        for name, (source, _) in self.directories.items():
            shutil.copytree(source, target / name, symlinks=True, dirs_exist_ok=True)


def prepare_context(dependencies: Path, requirements: Requirements, layout: Layout) -> Context:
    directories = {
        f"dependencies/{name}": (dependencies / name, f"{dependencies.name}-{name}") for name in ("runtime", "operator")
    }
    for purpose in CODE:
        directories[f"code/{purpose}"] = _code(purpose, requirements, layout)
    programs = DOCKERFILES / "programs"
    directories["programs"] = (programs, _tree_key(programs))
    return Context(directories)


def add_servers(context: Context, base: Layer, layout: Layout, step: Step) -> Context:
    """The context with what the images of Postgres and Kafka need."""
    directories = dict(context.directories)
    for name in SERVERS:
        directories[f"servers/{name}"] = server_images.additions(name, base, layout, step)
    jars, entrypoints = kafka.fetch(layout, step), DOCKERFILES / "entrypoints"
    directories["servers/jars"] = (jars, jars.name)
    directories["servers/config"] = (kafka.SOURCES, _tree_key(kafka.SOURCES))
    directories["entrypoints"] = (entrypoints, _tree_key(entrypoints))
    return Context(directories)


def build(purposes: Iterable[str], context: Context, base: Layer, layout: Layout) -> dict[str, Image]:
    """Images by full name, tag = content; the names go to images.json, too, for charts, demo and tests."""
    images: dict[str, Image] = {}
    names: dict[str, str] = json.loads(layout.images_json.read_text()) if layout.images_json.exists() else {}
    for purpose in purposes:
        recipe = parse((DOCKERFILES / f"Dockerfile.{purpose}").read_text())
        image = assemble(recipe, context, base, layout)
        names[purpose] = f"localhost/marty-{purpose}:{image.key}"
        images[names[purpose]] = image
    write_if_changed(layout.images_json, json.dumps(names, indent=2) + "\n")
    return images


def assemble(recipe: Recipe, context: Context, base: Layer, layout: Layout) -> Image:
    layers = [base, *(_layer(copy, *context.directories[copy.source], layout) for copy in recipe.copies)]
    return Image(tuple(layers), recipe.run_config)


def load(images: Mapping[str, Image], layout: Layout) -> list[str]:
    """Put into the running containerd what it lacks, under the content tag and as `:dev`; the names loaded now."""
    present = content_store.image_names(layout)
    wanted = {name: image for name, image in images.items() if name not in present}
    if wanted:
        aliases = {f"{name.rpartition(':')[0]}:dev": image for name, image in wanted.items()}
        have = frozenset(content_store.blob_digests(layout))
        with TemporaryDirectory(prefix="marty-images-") as directory:
            archive = Path(directory, "images.tar")
            write_archive(wanted | aliases, archive, leave_out=have)
            content_store.import_archive(layout, archive)
    return list(wanted)


def is_loadable(layout: Layout) -> bool:
    return daemons.pid_of("containerd", layout) is not None


def _layer(copy: Copy, source: Path, key: str, layout: Layout) -> Layer:
    directory = layout.cache / "images" / "layers"
    path = directory / f"{digest_of(key.encode(), copy.target.encode())}.tar"
    if not path.exists():
        with made_whole(path) as draft:
            write_layer(tree(source, copy.target), draft)
    return known_layer(path)


def _code(purpose: str, requirements: Requirements, layout: Layout) -> tuple[Path, str]:
    """Our packages with their bytecode and just enough metadata for importlib.metadata to know the version."""
    sources = [REPOSITORY / package for package in CODE[purpose]]
    key = digest_of(*(text.encode() for text in (requirements.version, *CODE[purpose], *map(_tree_key, sources))))
    target = layout.cache / "images" / "code" / f"{purpose}-{key}"
    if not target.exists():
        with made_whole(target) as draft:
            for source in sources:
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, draft / source.name, ignore=ignore)
            metadata = f"Metadata-Version: 2.1\nName: marty-msf\nVersion: {requirements.version}\n"
            write_if_changed(draft / f"marty_msf-{requirements.version}.dist-info" / "METADATA", metadata)
            wheels.compile_tree(draft, TARGET)
    return used(target), key


def _tree_key(root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    parts = [part for path in files for part in (str(path.relative_to(root)).encode(), path.read_bytes())]
    return digest_of(*parts)
