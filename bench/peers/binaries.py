"""The peers' programs: installed from their registries once, kept outside of the checkout, known by what they are made of."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dev.cluster import packages
from dev.cluster.commands import run
from dev.cluster.files import digest_of, made_whole, used
from dev.cluster.layout import Layout
from dev.cluster.progress import Progress

SOURCES: Final = Path(__file__).parent / "programs"
TEMPORAL: Final = "go.temporal.io/server"
DEBEZIUM: Final = "io.debezium:debezium-connector-postgres:3.6.3.Final:tar.gz:plugin"
RESTATE: Final = "@restatedev/restate-server@1.7.12"
_REMEDY: Final = "Run the same command again to go on; what was downloaded and built is kept."


def python() -> Path:
    """The interpreter of the Python peers' own environment."""
    requirements = SOURCES / "requirements.txt"

    def make(directory: Path) -> None:
        run([sys.executable, "-m", "venv", directory])
        cache = Layout.of_environment().cache / "pip"
        run([directory / "bin/pip", "install", "-q", "--cache-dir", cache, "-r", requirements], remedy=_REMEDY)

    # An environment knows its own path, so it is made in its place and marked when it is whole.
    directory = _place("python", requirements.read_bytes(), sys.version.encode())
    mark = directory / "whole"
    if not mark.exists():
        _tell("installing DBOS, Temporal's client and Restate's SDK")
        make(directory)
        mark.touch()
    used(directory)
    return directory / "bin/python"


def temporal() -> tuple[Path, Path, Path]:
    """Temporal's server, its tool for SQL schemas, and the directory with the schemas. Minutes the first time."""
    module = SOURCES / "temporal"

    def make(draft: Path) -> None:
        draft.mkdir()
        for name, package in (("server", "cmd/server"), ("sql", "cmd/tools/sql")):
            _go_build(module, f"{TEMPORAL}/{package}", draft / name)

    directory = _made("temporal", make, *_inputs(module))
    # The schemas lie in the module, which a build of ours that is cached may not have on this machine any more.
    run(["go", "mod", "download", TEMPORAL], directory=module, environment=_environment(), remedy=_REMEDY)
    listed = run(["go", "list", "-m", "-f", "{{.Dir}}", TEMPORAL], directory=module, environment=_environment())
    return directory / "server", directory / "sql", Path(listed.strip()) / "schema/postgresql/v12"


def program(name: str) -> Path:
    """One of our own small Go programs: river, restate or service."""
    module = SOURCES / "go"

    def make(draft: Path) -> None:
        draft.mkdir()
        for package in ("river", "restate", "service"):
            _go_build(module, f"./{package}", draft / package)

    return _made("go", make, *_inputs(module)) / name


def restate() -> Path:
    """Restate's server."""

    def make(draft: Path) -> None:
        draft.mkdir()
        (draft / "package.json").write_text("{}")
        run(["npm", "install", "--no-audit", "--no-fund", "--silent", RESTATE], directory=draft, remedy=_REMEDY)

    directory = _made("restate", make, RESTATE.encode())
    (found,) = directory.glob("node_modules/@restatedev/restate-server-*/bin/restate-server")
    return found


def connect() -> Path:
    """Kafka Connect's jars in `libs`, Debezium's Postgres connector in `plugins`."""
    pom = SOURCES / "connect" / "pom.xml"

    def make(draft: Path) -> None:
        maven: list[str | Path] = ["mvn", "-q", "-B", "-ntp", "-f", pom]
        run([*maven, "dependency:copy-dependencies", f"-DoutputDirectory={draft}/libs"], remedy=_REMEDY)
        run([*maven, "dependency:copy", f"-Dartifact={DEBEZIUM}", f"-DoutputDirectory={draft}"], remedy=_REMEDY)
        (archive,) = draft.glob("*.tar.gz")
        (draft / "plugins").mkdir()
        run(["tar", "-xzf", archive, "-C", draft / "plugins"])
        archive.unlink()

    return _made("connect", make, pom.read_bytes(), DEBEZIUM.encode())


def pgq() -> None:
    """PgQ's extension, on the machine's own Postgres."""
    wanted = {"postgresql-15-pgq3": "a peer of the outbox benchmark"}
    if packages.missing(wanted):
        with Progress(1) as progress, progress.step("PgQ") as step:
            packages.install(wanted, step)


def _go_build(module: Path, package: str, target: Path) -> None:
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
    argv: list[str | Path] = ["go", "build", *flags, "-o", target, package]
    run(argv, directory=module, environment=_environment(), remedy=_REMEDY)


def _environment() -> Mapping[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _inputs(module: Path) -> list[bytes]:
    files = sorted([module / "go.mod", module / "go.sum", *module.rglob("*.go")])
    return [run(["go", "env", "GOVERSION"]).encode(), *(path.read_bytes() for path in files)]


def _made(name: str, make: Callable[[Path], None], *inputs: bytes) -> Path:
    target = _place(name, *inputs)
    if not target.exists():
        _tell(f"building {name}")
        with made_whole(target) as draft:
            make(draft)
    return used(target)


def _place(name: str, *inputs: bytes) -> Path:
    return Layout.of_environment().cache / "peers" / f"{name}-{digest_of(*inputs)}"


def _tell(words: str) -> None:
    print(f"{words}, once …", file=sys.stderr, flush=True)
