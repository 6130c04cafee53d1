"""Command line: python3 -m dev.cluster up | down | purge | status | env | images | leftovers."""

import argparse
import fcntl
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dev.cluster import environment, images, leftovers, network, packages, status, teardown, up
from dev.cluster.errors import ClusterError
from dev.cluster.image_tasks import ImageBuild
from dev.cluster.layout import Layout
from dev.cluster.progress import Progress
from dev.cluster.tasks import Task, run_tasks

SERVERS: Final = frozenset({"postgres", "kafka"})


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        layout = Layout.of_environment()
        code: int = options.act(layout, options)
    except (ClusterError, ValueError) as failure:
        sys.stdout.flush()
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return code


def _up(layout: Layout, options: argparse.Namespace) -> int:
    if options.only:
        bridge = network.bridge_exists()
        servers = up.server_tasks(layout, options.only, bridge=bridge, durable=not options.in_memory)
        tasks = [up.packages_task(packages.SERVERS), *servers]
        tasks = [_without_network(task) for task in tasks]
    else:
        up.require_root()
        needed = packages.SERVERS | packages.KUBERNETES | packages.IMAGES
        servers = up.server_tasks(layout, SERVERS, bridge=True, durable=not options.in_memory)
        tasks = [*up.cluster_tasks(layout), up.packages_task(needed), *servers]
        if options.images:
            build = ImageBuild(layout)
            tasks += [*build.tasks(), build.load_task("containerd")]
    with _locked(layout), Progress(len(tasks)) as progress:
        teardown.end_unrecorded(layout)
        run_tasks(tasks, progress)
    return 0


def _images(layout: Layout, options: argparse.Namespace) -> int:
    up.require_root()
    running = images.is_loadable(layout)
    build = ImageBuild(layout, servers=options.servers)
    needed = packages.IMAGES | (packages.SERVERS if options.servers else {})
    tasks = [up.packages_task(needed), *build.tasks()]
    if options.context:
        tasks.append(build.context_task(options.context))
    if options.archive:
        tasks.append(build.archive_task(options.archive))
    if running:
        tasks.append(build.load_task())
    with _locked(layout), Progress(len(tasks)) as progress:
        run_tasks(tasks, progress)
    print(layout.images_json.read_text(), end="")
    if not running:
        print("The cluster does not run: the images were built, not loaded.", file=sys.stderr)
    return 0


def _down(layout: Layout, _: argparse.Namespace) -> int:
    with _locked(layout), Progress(4) as progress:
        teardown.take_down(layout, progress)
    return _report_leftovers(layout)


def _purge(layout: Layout, options: argparse.Namespace) -> int:
    code = _down(layout, options)
    teardown.purge(layout)
    return code


def _leftovers(layout: Layout, _: argparse.Namespace) -> int:
    return _report_leftovers(layout)


def _report_leftovers(layout: Layout) -> int:
    found = leftovers.find(layout)
    for line in found:
        print(f"left: {line}", file=sys.stderr)
    return 1 if found else 0


def _status(layout: Layout, options: argparse.Namespace) -> int:
    found = status.parts(layout)
    print(status.as_json(found) if options.output == "json" else status.table(found))
    return 1 if any(part.is_wrong for part in found) else 0


def _env(layout: Layout, _: argparse.Namespace) -> int:
    for name, value in environment.variables(layout).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _without_network(task: Task) -> Task:
    return Task(task.name, task.title, task.action, tuple(need for need in task.needs if need != "network"))


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """One change of the cluster at a time; a second caller waits for the first. Daemons do not inherit the lock."""
    layout.state.mkdir(parents=True, exist_ok=True)
    with Path(layout.state.parent, f".{layout.state.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _servers(text: str) -> frozenset[str]:
    names = frozenset(text.split(","))
    if not names <= SERVERS:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(sorted(SERVERS))}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m dev.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("up", help="start everything, or go on with a start that was cut off")
    command.add_argument(
        "--only", type=_servers, metavar="postgres,kafka", help="these servers on loopback, no cluster"
    )
    command.add_argument("--images", action="store_true", help="also build our images and load them")
    command.add_argument(
        "--in-memory",
        action="store_true",
        help="Postgres keeps its data in memory: for tests, which make and drop databases all the time",
    )
    command.set_defaults(act=_up)
    command = commands.add_parser("images", help="build our images; load them when the cluster runs")
    command.add_argument("--context", type=Path, metavar="DIR", help="also write the build context for `docker build`")
    command.add_argument("--archive", type=Path, metavar="FILE", help="also write all images for `docker load`")
    command.add_argument("--servers", action="store_true", help="also images of Postgres and Kafka, to run as pods")
    command.set_defaults(act=_images)
    commands.add_parser("down", help="stop everything; nothing live stays").set_defaults(act=_down)
    commands.add_parser("purge", help="down, and drop images and logs").set_defaults(act=_purge)
    command = commands.add_parser("status", help="the parts and their addresses; code 1 when one is down")
    command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    command.set_defaults(act=_status)
    commands.add_parser("env", help="shell variables for tests and people").set_defaults(act=_env)
    commands.add_parser("leftovers", help="list what is live; code 1 when anything is").set_defaults(act=_leftovers)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
