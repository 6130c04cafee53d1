"""The second half of `make demo`: chooses the target, runs the flow, prints the result. Exit code 1 on any difference."""

import argparse
import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from dev.cluster.errors import ClusterError
from dev.cluster.layout import Layout
from dev.cluster.progress import Progress, elapsed
from dev.demo import flow
from dev.demo.context import ContextCluster
from dev.demo.diagnosis import diagnosis
from dev.demo.load import OrderRefused
from dev.demo.local import LocalCluster
from dev.demo.render import as_json, as_text
from dev.demo.target import Images, Target

#: What runs Postgres and Kafka on somebody's own cluster, unless IMAGE_POSTGRES and IMAGE_KAFKA say otherwise.
PUBLIC_SERVERS: Final = {"postgres": "postgres:15", "kafka": "apache/kafka:4.1.0"}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    out = sys.stderr if options.output == "json" else sys.stdout
    try:
        target = _target(options.kube_context, Layout.of_environment(), os.environ)
    except (ClusterError, ValueError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    try:
        with Progress(flow.STEPS, out) as progress:
            report = asyncio.run(flow.run(target, progress))
    except* (ClusterError, OrderRefused) as failures:
        for one in _leaves(failures):
            print(f"error: {one}", file=sys.stderr)
        print(diagnosis(target.kubectl), file=sys.stderr)
        return_code = 1
    else:
        print(as_json(report) if options.output == "json" else f"\n{as_text(report)}")
        print(f"{'done' if report.ok else 'FAILED'} after {elapsed(options.started)}", file=out)
        return_code = 0 if report.ok else 1
    finally:
        target.close()
    return return_code


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found


def _target(context: str | None, layout: Layout, environment: Mapping[str, str]) -> Target:
    if context is None:
        return LocalCluster(layout)
    built = json.loads(layout.images_json.read_text()) if layout.images_json.exists() else {}
    return ContextCluster(
        context,
        _program("kubectl", layout),
        _program("helm", layout),
        product_images(environment, built),
        server_images(environment, built),
    )


def product_images(environment: Mapping[str, str], built: Mapping[str, str]) -> Images:
    """IMAGE_PREFIX and IMAGE_TAG, else the images built on this machine. ValueError when there are neither."""
    prefix = environment.get("IMAGE_PREFIX")
    if prefix:
        tag = environment.get("IMAGE_TAG") or "latest"
        return Images(*(f"{prefix.rstrip('/')}/marty-{name}:{tag}" for name in ("operator", "runtime", "shop")))
    try:
        return Images(built["operator"], built["runtime"], built["shop"])
    except KeyError as missing:
        raise ValueError(
            "no images: build and push them, then set IMAGE_PREFIX=registry/path and IMAGE_TAG=tag "
            "(`python3 -m dev.cluster images --archive FILE` writes them for `docker load`)"
        ) from missing


def server_images(environment: Mapping[str, str], built: Mapping[str, str]) -> dict[str, str]:
    """Place in the manifests to image: the caller's choice, else built on this machine, else public ones."""
    return {
        f"marty-{name}": environment.get(f"IMAGE_{name.upper()}") or built.get(name) or public
        for name, public in PUBLIC_SERVERS.items()
    }


def _program(name: str, layout: Layout) -> str:
    own = layout.programs / name
    found = shutil.which(name) or (str(own) if own.exists() else None)
    if found is None:
        raise ClusterError(f"{name}: program not found. Install it, or run `make cluster-up`, which builds it")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.demo.run", description=__doc__)
    parser.add_argument("--kube-context", metavar="NAME")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--started", type=float, required=True, metavar="SECONDS", help="monotonic clock at the start")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
