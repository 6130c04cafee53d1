"""One API server with our definitions for all contract tests; nothing that they write is kept."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.operators import URL, Operator
from tests.support.api_proxy import api_proxy
from tests.support.api_server import api_server
from tests.support.cluster import Cluster
from tests.support.space import Space

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


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server of the module's own, with our definitions and without any controller."""
    with api_server(tmp_path_factory.mktemp("api-server")) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))
        yield cluster


@pytest.fixture
async def space(bare: Cluster) -> Space:
    """A namespace with the Secret of a database."""
    space = Space(bare, f"test-{secrets.token_hex(4)}")
    await asyncio.to_thread(bare.kubectl, "create", "namespace", space.namespace)
    await space.write_secret(space.secret, "uri", URL)
    return space


@pytest.fixture
async def private(space: Space, bare: Cluster, tmp_path: Path) -> AsyncIterator[Operator]:
    """Operators that serve only this namespace."""
    async with api_proxy(bare, tmp_path) as proxy:
        yield Operator(proxy, tmp_path, space.namespace)
