"""A Kubernetes API that the tests made themselves, reached directly and with the local cluster's own kubectl and helm.

Nothing here reads KUBECONFIG or a default context: a test never touches a cluster that it was merely pointed to.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.cluster.layout import API_URL, Layout
from tests.support.api import Api, Refused


@dataclass(frozen=True, slots=True)
class Cluster:
    """One API server; `kubeconfig` is the only way to it."""

    kubeconfig: Path
    programs: Path

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002  # as in subprocess.run
        """Run kubectl; with `check`, a failure fails the test with everything that kubectl said."""
        return self._run(("kubectl", *args), input, check)

    def helm(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run helm; with `check` as for kubectl."""
        return self._run(("helm", *args), None, check)

    def get(self, *args: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Server-side apply, the way a GitOps tool does it. Raises Refused."""
        for document in documents:
            self.api.apply(document)

    def refusal(self, document: Mapping[str, Any]) -> str:
        """What is said to who applies this; fails when it is accepted."""
        try:
            self.api.apply(document)
        except Refused as refused:
            return str(refused)
        raise AssertionError(f"{document['kind']} {document['metadata']['name']} was accepted")

    @property
    def api(self) -> Api:
        """The same API server without kubectl."""
        return Api.of(self.kubeconfig)

    def _run(self, command: Sequence[str], text: str | None, check: bool) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
        )
        if check and answer.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}")
        return answer


def local_cluster() -> Cluster:
    """The cluster of `python3 -m dev.cluster up`. Raises RuntimeError when it is not there or is another one."""
    layout = Layout.of_environment()
    kubeconfig = layout.kubeconfig("admin")
    if not kubeconfig.exists():
        raise RuntimeError(f"{kubeconfig} does not exist: start the local cluster with `python3 -m dev.cluster up`")
    servers = {entry["cluster"]["server"] for entry in json.loads(kubeconfig.read_text())["clusters"]}
    if servers != {API_URL}:
        raise RuntimeError(f"{kubeconfig} points to {servers}, not to {API_URL}: tests use only the cluster they made")
    return Cluster(kubeconfig, layout.programs)
