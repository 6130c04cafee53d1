"""Run a program and turn its failure into one readable error."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from dev.cluster.errors import ClusterError

PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
TAIL_LINES: Final = 15


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Everything of the cluster is local; a proxy would be asked for addresses only this machine knows."""
    return {name: value for name, value in environment.items() if name.lower() not in PROXY_VARIABLES}


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    remedy: str = "",
) -> str:
    """Standard output of a program; ClusterError with the end of its error output when it fails or is missing."""
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=directory,
            env=dict(environment) if environment is not None else None,
            check=False,
        )
    except FileNotFoundError as missing:
        raise ClusterError(f"{command[0]}: program not found. {remedy}".strip()) from missing
    if done.returncode:
        raise ClusterError(_failure(command, done.returncode, done.stderr + done.stdout, remedy))
    return done.stdout


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Whether the program ends with code 0; its output is dropped."""
    command = [str(part) for part in argv]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def follow(
    argv: Sequence[str | Path],
    each_line: Callable[[str], None],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    remedy: str = "",
) -> None:
    """Run a long program and hand every line of its output to `each_line`, for progress."""
    command = [str(part) for part in argv]
    tail: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=directory,
            env=dict(environment) if environment is not None else dict(os.environ),
        )
    except FileNotFoundError as missing:
        raise ClusterError(f"{command[0]}: program not found. {remedy}".strip()) from missing
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-TAIL_LINES:], line]
            each_line(line.rstrip())
    if process.returncode:
        raise ClusterError(_failure(command, process.returncode, "".join(tail), remedy))


def _failure(command: Sequence[str], code: int, output: str, remedy: str) -> str:
    shown = " ".join(command)
    lines = output.strip().splitlines()[-TAIL_LINES:]
    parts = [f"`{shown[:200]}` ended with code {code}", *(f"    {line}" for line in lines)]
    return "\n".join([*parts, remedy] if remedy else parts)
