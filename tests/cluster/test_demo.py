"""`make demo` cannot rot: this is its flow, its kills and its check table, on the local cluster."""

import io
import subprocess
from collections.abc import Iterator

import pytest

from dev.cluster.layout import Layout
from dev.cluster.progress import Progress
from dev.demo import flow
from dev.demo.flow import Load
from dev.demo.killing import ACTIVE_NEEDED
from dev.demo.local import LocalCluster
from dev.demo.manifests import NAMESPACE
from dev.demo.render import Report, as_text
from tests.support.cluster import Cluster

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def target(cluster: Cluster, images: dict[str, str]) -> Iterator[LocalCluster]:
    """The local cluster without a shop; the shop goes with the test, the operator is shared and stays."""
    _remove_shop(cluster)
    yield LocalCluster(Layout.of_environment())
    _remove_shop(cluster)


def _remove_shop(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    return cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")


async def run(target: LocalCluster, load: Load) -> Report:
    with Progress(flow.STEPS, io.StringIO()) as progress:
        return await flow.run(target, progress, load)


async def test_the_demo_holds_on_an_empty_cluster_and_again_on_the_running_one(target: LocalCluster) -> None:
    first = await run(target, Load())
    assert first.ok, as_text(first)
    assert min(first.killed.active_before, first.killed.active_after) >= ACTIVE_NEEDED
    assert len(first.killed.pods) == 3

    second = await run(target, Load(burst=80, paced=4))
    assert second.ok, as_text(second)
    assert int(second.checks[0].found) == first.orders_placed + second.orders_placed
