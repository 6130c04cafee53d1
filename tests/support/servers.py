"""Where the real Postgres and Kafka of this machine are."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def server(variable: str) -> str:
    """MARTY_TEST_POSTGRES or MARTY_TEST_KAFKA: from the environment, else as `python3 -m dev.cluster env` says."""
    if value := os.environ.get(variable):
        return value
    answer = subprocess.run(
        [sys.executable, "-m", "dev.cluster", "env"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for line in answer.stdout.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        if name == variable and value:
            return value
    raise RuntimeError(
        f"{variable} is not known: start the servers with `python3 -m dev.cluster up --only postgres,kafka`, "
        f"or set {variable}; dev.cluster said: {answer.stderr.strip() or answer.stdout.strip() or 'nothing'}"
    )
