"""The local cluster with the operator installed by its chart, and a namespace and a database per test."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import postgres
from tests.support.cluster import Cluster, local_cluster
from tests.support.servers import server
from tests.support.space import Space

ROOT: Final = Path(__file__).parents[2]
OPERATOR_NAMESPACE: Final = "marty-system"
RELEASE: Final = "marty"
#: Pods start, roll and recover in these tests; each wait has a closer bound of its own.
TEST_TIMEOUT_SECONDS: Final = 300
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Only ever the cluster that `python3 -m dev.cluster up` made."""
    return local_cluster()


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> dict[str, str]:
    """The product's images of the present tree, by name; unchanged ones cost nothing."""
    command = [sys.executable, "-m", "dev.cluster"]
    built = subprocess.run([*command, "images"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    answer = subprocess.run([*command, "env"], cwd=ROOT, capture_output=True, text=True, check=True)
    variables = dict(line.removeprefix("export ").split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    return dict(json.loads(Path(variables["MARTY_IMAGES"]).read_text()))


@pytest.fixture(scope="module")
def operator(cluster: Cluster, images: dict[str, str]) -> str:
    """The operator, installed or upgraded with Helm and ready; answers with its namespace."""
    values = {"images.operator": images["operator"], "images.runtime": images["runtime"]}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE, "labels": RESTRICTED}}
    )
    cluster.helm(
        *("upgrade", "--install", RELEASE, str(ROOT / "charts" / "marty-operator"), "--namespace", OPERATOR_NAMESPACE),
        *(part for name, value in values.items() for part in ("--set-string", f"{name}={value}")),
        *("--wait", "--timeout", "180s"),
    )
    return OPERATOR_NAMESPACE


@pytest.fixture
async def space(cluster: Cluster, operator: str) -> AsyncIterator[Space]:
    """A namespace that enforces restricted Pod Security; it and all in it are deleted at the end."""
    name = f"test-{secrets.token_hex(4)}"
    metadata = {"name": name, "labels": RESTRICTED}
    await asyncio.to_thread(cluster.apply, {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield Space(cluster, name)
    await asyncio.to_thread(cluster.kubectl, "delete", "namespace", name, "--wait=false")


@pytest.fixture
async def database(space: Space) -> AsyncIterator[str]:
    """An empty database, as its URL from inside pods; the space's Secret holds that URL."""
    async with postgres.database(None) as url:
        name = url.rpartition("/")[2]
        inside = postgres.with_database(server("MARTY_CLUSTER_POSTGRES"), name)
        await space.write_secret(space.secret, "uri", inside)
        yield inside
