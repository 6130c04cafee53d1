"""The Python packages of the images: pinned wheels, installed without running anything of theirs."""

import filecmp
import os
import platform
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import follow, run
from dev.cluster.errors import ClusterError
from dev.cluster.files import digest_of, made_whole, used
from dev.cluster.layout import REPOSITORY, Layout
from dev.cluster.progress import Step

CONSTRAINTS: Final = REPOSITORY / "dev" / "images" / "constraints.txt"
PYTHON: Final = "3.11"
TARGET: Final = "/app/dependencies"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What pyproject.toml asks for: the runtime's packages, and those the operator adds."""

    runtime: tuple[str, ...]
    operator: tuple[str, ...]
    version: str

    @staticmethod
    def of_project() -> "Requirements":
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        # A worker's image is for all resources, so it has what any spec may ask for.
        runtime = (*project["dependencies"], *extras["redis"], *extras["otel"])
        return Requirements(runtime, tuple(extras["operator"]), project["version"])

    @property
    def key(self) -> str:
        texts = ("wheels 1", platform.machine(), *self.runtime, "operator", *self.operator)
        return digest_of(CONSTRAINTS.read_bytes(), *(text.encode() for text in texts))


def install(requirements: Requirements, layout: Layout, step: Step) -> Path:
    """A directory with `runtime` (all a worker needs) and `operator` (only what comes on top), compiled."""
    target = layout.cache / "images" / "dependencies" / requirements.key
    if target.exists():
        return used(target)
    if sys.version_info[:2] != (3, 11):
        raise ClusterError(f"the images hold Python 3.11 and are compiled by it, this is {platform.python_version()}")
    pip = _pip(layout)
    with made_whole(target) as draft:
        both = draft / "both"
        for name, wanted in (("runtime", requirements.runtime), ("both", requirements.runtime + requirements.operator)):
            step.note(f"wheels of {name}")
            _pip_install(pip, wanted, draft / name, layout)
        subtract(both, draft / "runtime", draft / "operator")
        shutil.rmtree(both)
        for name in ("runtime", "operator"):
            step.note(f"compiling {name}")
            compile_tree(draft / name, TARGET)
    step.note("")
    return target


def compile_tree(root: Path, prefix: str) -> None:
    """Byte-compile for an image where `root` lies at `prefix`; never checked against the sources again."""
    options: list[str | Path] = ["-q", "-j", "2", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", prefix]
    # Some packages ship files for other Python versions; those that do not compile are not imported either.
    follow([sys.executable, "-m", "compileall", *options, root], lambda _: None)


def subtract(whole: Path, lower: Path, target: Path) -> None:
    """Move what `whole` has over `lower` to `target`: new files and changed ones."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(whole.rglob("*")):
        place = path.relative_to(whole)
        below = lower / place
        if path.is_file() and not (below.is_file() and filecmp.cmp(path, below, shallow=False)):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            path.rename(target / place)


def _pip(layout: Layout) -> Path:
    environment = layout.cache / "pip-venv"
    program = environment / "bin" / "pip"
    if not program.exists():
        remedy = "Install the package python3-venv."
        run([sys.executable, "-m", "venv", "--clear", environment], remedy=remedy)
    return program


def _pip_install(pip: Path, wanted: tuple[str, ...], target: Path, layout: Layout) -> None:
    machine = platform.machine()
    options = ["--no-compile", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux_2_28", "manylinux2014")]
    command: list[str | Path] = [pip, "install", "-q", "--disable-pip-version-check", f"--cache-dir={layout.cache}/pip"]
    run(
        [*command, *options, *platforms, f"--target={target}", "-c", CONSTRAINTS, *wanted],
        environment=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        remedy="pip could not install the images' packages. Run the same command again to go on.",
    )
