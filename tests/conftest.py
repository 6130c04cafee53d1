"""Fixtures on the real servers: a fresh database and fresh topics per test."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import asyncpg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import kafka, postgres
from tests.support.forking import forking
from tests.support.servers import server

#: What takes long to set up and is kept for a whole session, or is one for all: an installed release, API servers, brokers.
GROUPS: Final = {
    "cluster": ("tests/cluster/",),
    "contract": ("tests/contract/",),
    "secure kafka": (
        "tests/integration/worker/test_secure_kafka.py",
        "tests/integration/patterns/test_kafka_message_broker.py",
    ),
}


class _Groups(LoadScopeScheduling):
    """Tests run several at a time, file by file; those in a group of GROUPS one after the other, in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((group for group, paths in GROUPS.items() if file.startswith(paths)), file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first, so that no process has one of them left when the others are done: groups, then the files with
    tests that ask for more than the usual time-out.
    """
    usual = float(config.getini("timeout"))
    longest: dict[str, float] = {}
    for item in items:
        file, marker = item.nodeid.partition("::")[0], item.get_closest_marker("timeout")
        longest[file] = max(longest.get(file, usual), float(marker.args[0]) if marker else usual)
    groups = tuple(path for paths in GROUPS.values() for path in paths)
    items.sort(key=lambda item: (not item.nodeid.startswith(groups), -longest[item.nodeid.partition("::")[0]]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Groups:
    config.option.loadscopereorder = False
    return _Groups(config, log)


@pytest.fixture(scope="session", autouse=True)
def _forked_processes() -> Iterator[None]:
    """The processes of tests are forked from one that has imported everything."""
    with forking():
        yield


@pytest.fixture(scope="session")
def admin_url() -> str:
    """A superuser's URL of the server's maintenance database."""
    return postgres.admin_url()


@pytest.fixture(scope="session")
def migrated_template() -> str:
    return asyncio.run(postgres.ensure_template())


@pytest.fixture
async def postgres_url(migrated_template: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with postgres.database(migrated_template) as url:
        yield url


@pytest.fixture
async def empty_postgres_url() -> AsyncIterator[str]:
    """A database without the schema `marty`."""
    async with postgres.database(None) as url:
        yield url


@pytest.fixture
async def conn(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection to the test's database."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close(timeout=5)


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    return server("MARTY_TEST_KAFKA")


@pytest.fixture
def topic_factory(kafka_bootstrap: str) -> Iterator[Callable[..., str]]:
    """Makes topics: `topic_factory("orders", partitions=4, config={…})` returns the unique name; deleted at the end."""
    made: list[str] = []

    def make(label: str = "topic", partitions: int = 4, config: dict[str, str] | None = None) -> str:
        name = f"{label}-{secrets.token_hex(5)}"
        kafka.create_topic(kafka_bootstrap, name, partitions, config)
        made.append(name)
        return name

    yield make
    kafka.delete_topics(kafka_bootstrap, made)
