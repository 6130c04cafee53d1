"""One API server with our definitions for all contract tests; nothing that they write is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import api_server
from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]
#: First use starts etcd and the API server, which takes its time on a busy machine.
START_TIMEOUT_SECONDS = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "contract" in item.path.parts:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(START_TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def bare_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server without our definitions."""
    with api_server(tmp_path_factory.mktemp("api-server")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def api(bare_api: Cluster) -> Cluster:
    """The API server with the definitions of crds/ served."""
    bare_api.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    bare_api.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))
    return bare_api
