"""The part of a Dockerfile our images use: FROM, COPY, ENV, WORKDIR, USER, ENTRYPOINT and EXPOSE; pure."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dev.cluster.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Copy:
    """Contents of the context's directory `source`, below `target` (no leading slash) in the image."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a Dockerfile says: copies in order, and how the image runs."""

    copies: tuple[Copy, ...]
    run_config: dict[str, Any]


def parse(text: str) -> Recipe:
    """ClusterError for an instruction outside the part above, so that nothing in a Dockerfile is silently ignored."""
    copies: list[Copy] = []
    config: dict[str, Any] = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]}
    for instruction, words in _instructions(text):
        match instruction:
            case "ARG" | "FROM" if words.startswith(("BASE=", "${BASE}")):
                continue
            case "COPY" if len(words.split()) == 2:
                source, target = words.split()
                copies.append(Copy(source, target.strip("/")))
            case "ENV":
                config["Env"] += shlex.split(words)
            case "EXPOSE":
                config.setdefault("ExposedPorts", {})[f"{words}/tcp"] = {}
            case "WORKDIR":
                config["WorkingDir"] = words
            case "USER":
                config["User"] = words
            case "ENTRYPOINT":
                config["Entrypoint"] = json.loads(words)
            case _:
                raise ClusterError(
                    f"Dockerfile: `{instruction} {words}` is not known here: use COPY, ENV, WORKDIR, ..."
                )
    return Recipe(tuple(copies), config)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            instruction, _, words = line.strip().partition(" ")
            yield instruction.upper(), words.strip()
