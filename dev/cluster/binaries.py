"""The Go programs of the cluster, built from their module versions once and cached by what they are built from."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import follow, run
from dev.cluster.errors import ClusterError
from dev.cluster.files import digest_of, made_whole
from dev.cluster.layout import Layout
from dev.cluster.progress import Step

SOURCES: Final = Path(__file__).parent / "go"
OLDEST_GO: Final = (1, 24)
_VERSION: Final = "k8s.io/component-base/version"
_HELM: Final = "helm.sh/helm/v3/pkg/chartutil"


@dataclass(frozen=True, slots=True)
class Program:
    """One Go build: `package` as seen from the module at `go`, one for all: what they share compiles once."""

    name: str
    package: str
    values: tuple[str, ...] = ()

    @property
    def linker_flags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {value}" for value in self.values)])

    @property
    def key(self) -> str:
        """Changes with anything the program is built from."""
        versions = [SOURCES / "go.mod", SOURCES / "go.sum"]
        sources = versions + sorted((SOURCES / self.name).glob("*.go"))
        return digest_of(self.linker_flags.encode(), self.package.encode(), *(path.read_bytes() for path in sources))

    def path(self, layout: Layout) -> Path:
        return layout.cache / "bin" / self.key / self.name


# Without the version kubectl and the kubelet call themselves v0.0.0, and a chart's kubeVersion would not match.
KUBERNETES: Final = Program(
    "k8s",
    "./k8s",
    (
        f"{_VERSION}.gitVersion=v1.34.4",
        f"{_VERSION}.gitMajor=1",
        f"{_VERSION}.gitMinor=34",
        f"{_VERSION}.gitTreeState=clean",
        f"{_VERSION}.gitCommit=0",
        f"{_VERSION}.buildDate=1970-01-01T00:00:00Z",
    ),
)
HELM: Final = Program("helm", "helm.sh/helm/v3/cmd/helm", (f"{_HELM}.k8sVersionMajor=1", f"{_HELM}.k8sVersionMinor=34"))
COREDNS: Final = Program("coredns", "./coredns")
PAUSE: Final = Program("pause", "./pause")


def build(program: Program, layout: Layout, step: Step) -> Path:
    """Path of the built program; a build interrupted at any point starts again from Go's own cache."""
    target = program.path(layout)
    if target.exists():
        return target
    go = _go()
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    step.note("downloading modules")
    listed = run([go, "list", "-deps", program.package], directory=SOURCES, environment=environment)
    packages = len(listed.splitlines())
    step.note(f"compiling and linking {packages} packages")
    built = 0

    def count(line: str) -> None:
        nonlocal built
        if "/" in line and " " not in line:
            built += 1
            step.note(f"{min(99, 100 * built // packages)}% of {packages} packages")

    with made_whole(target) as draft:
        argv: list[str | Path] = [
            go,
            "build",
            "-v",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            program.linker_flags,
            "-o",
            draft,
            program.package,
        ]
        follow(argv, count, directory=SOURCES, environment=environment, remedy="Run the same command again to go on.")
    step.note("")
    _drop_older(program, layout)
    return target


def link(layout: Layout) -> None:
    """kubectl and helm under one directory for PATH; one binary answers to several names."""
    layout.programs.mkdir(parents=True, exist_ok=True)
    for name, program in (("kubectl", KUBERNETES), ("helm", HELM)):
        target, path = layout.programs / name, program.path(layout)
        if not target.is_symlink() or target.readlink() != path:
            draft = layout.programs / f".{name}"
            draft.unlink(missing_ok=True)
            draft.symlink_to(path)
            draft.replace(target)


def _go() -> str:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    remedy = "Install Go 1.24 or newer (go.dev/dl) and put it on PATH."
    if go is None:
        raise ClusterError(f"go: program not found. {remedy}")
    version = run([go, "env", "GOVERSION"]).strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_GO:
        raise ClusterError(f"{go} is {version}, too old. {remedy}")
    return go


def _drop_older(program: Program, layout: Layout) -> None:
    """Keep two builds of a program (this one and the one of the branch before); each is over 60 MB."""
    builds = sorted((layout.cache / "bin").glob(f"*/{program.name}"), key=lambda path: path.stat().st_mtime)
    for old in builds[:-2]:
        shutil.rmtree(old.parent)
