"""`make demo`: first what needs no Python package (the local cluster, the images, the packages themselves), then the shop.

Standard library only, because on a fresh machine the packages are installed meanwhile.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = REPOSITORY / ".venv" / "bin" / "python"
POLL_SECONDS: Final = 0.5


def main(arguments: Sequence[str]) -> int:
    """The exit code when the first half fails; otherwise the process becomes the second half (`dev.demo.run`)."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    packages = threading.Event()
    failures: list[str] = []
    worker = threading.Thread(target=_install_packages, args=(packages, failures))
    worker.start()
    # On standard error when standard output is for a program.
    out = sys.stderr if options.output == "json" else sys.stdout
    code = 0
    if not options.kube_context:
        code = subprocess.run(
            [sys.executable, "-m", "dev.cluster", "up", "--images"], cwd=REPOSITORY, stdout=out
        ).returncode
    packages.set()
    worker.join()
    if code or failures:
        print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
        return code or 1
    return _second_half(options, started)


def _second_half(options: argparse.Namespace, started: float) -> int:
    os.chdir(REPOSITORY)
    context = ["--kube-context", options.kube_context] if options.kube_context else []
    rest = ["--output", options.output, "--started", str(started), *context]
    os.execv(PYTHON, [str(PYTHON), "-m", "dev.demo.run", *rest])


def _install_packages(last_try: threading.Event, failures: list[str]) -> None:
    """`make venv`, once Python can make environments: on a fresh Debian the cluster's start brings what that needs."""
    while not last_try.wait(POLL_SECONDS) and not _can_make_environments():
        continue
    done = subprocess.run(
        ["make", "--no-print-directory", "-s", "venv"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        failures.append(f"error: the Python packages could not be installed:\n{done.stdout}{done.stderr}")


def _can_make_environments() -> bool:
    return (
        PYTHON.exists()
        or not subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m dev.demo", description=__doc__)
    parser.add_argument(
        "--kube-context", metavar="NAME", help="use this context of your kubeconfig, not the local cluster"
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
