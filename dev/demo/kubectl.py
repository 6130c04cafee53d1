"""kubectl as a value: one cluster, one set of options, JSON in and out."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dev.cluster.commands import run, without_proxies

Manifest = Mapping[str, Any]

FIELD_MANAGER: Final = "marty-demo"


@dataclass(frozen=True, slots=True)
class Kubectl:
    """`options` name the cluster: `--kubeconfig FILE` or `--context NAME`."""

    program: str
    options: tuple[str, ...]

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output. ClusterError with kubectl's own words when it refuses."""
        return run([self.program, *self.options, *arguments], stdin=stdin, environment=without_proxies(os.environ))

    def json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*arguments, "-o", "json"))
        return found

    def secret_value(self, name: str, key: str, namespace: str) -> str | None:
        """One decoded value, None when there is no such Secret or key."""
        text = self.run("get", "secret", name, "-n", namespace, "--ignore-not-found", "-o", "json")
        data = json.loads(text).get("data", {}) if text.strip() else {}
        return base64.b64decode(data[key]).decode() if key in data else None

    def items(self, kinds: str, namespace: str, *arguments: str) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = self.json("get", kinds, "-n", namespace, *arguments)["items"]
        return found

    def apply(self, manifests: Sequence[Manifest]) -> None:
        """Server-side apply of all of them, through standard input: a Secret never stands on a command line."""
        bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.run(
            "apply", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "-f", "-", stdin=bundle
        )

    def await_condition(self, condition: str, seconds: int, *objects: str, namespace: str | None = None) -> None:
        self.run("wait", f"--for=condition={condition}", f"--timeout={seconds}s", *_in(namespace), *objects)


def _in(namespace: str | None) -> tuple[str, ...]:
    return ("-n", namespace) if namespace else ()
