"""`marty migrate` as the migration Job calls it."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from marty_msf.store.migrations import required_version
from tests.support.processes import running
from tests.support.proxy import proxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


async def migrate(log: Path, environment: Mapping[str, str], *options: str) -> tuple[int, str]:
    async with running(["-m", "marty_msf.cli", "migrate", *options], log, environment) as process:
        return await process.wait(60), process.output()


async def test_it_installs_once_and_says_what_it_did(empty_postgres_url: str, tmp_path: Path) -> None:
    environment = {"MARTY_DATABASE_URL": empty_postgres_url}

    code, output = await migrate(tmp_path / "first", environment)
    assert code == 0, output
    assert "applied 0001_leases" in output
    assert f"the schema is at version {required_version()}; {required_version()} migrations were applied now" in output

    assert await migrate(tmp_path / "second", environment) == (
        0,
        f"the schema is at version {required_version()}; nothing was to be done\n",
    )


async def test_an_unreachable_database_is_given_up_after_the_wait(tmp_path: Path) -> None:
    environment = {"MARTY_DATABASE_URL": "postgresql://user:pa55word@127.0.0.1:1/nothing"}

    code, output = await migrate(tmp_path / "log", environment, "--wait-seconds", "0")

    assert code == 1
    assert "Postgres at 127.0.0.1:1 does not answer" in output
    assert "pa55word" not in output


async def test_a_malformed_url_is_refused_at_once_without_telling_its_password(tmp_path: Path) -> None:
    environment = {"MARTY_DATABASE_URL": "postgresql://user:pa55word#more@127.0.0.1/nothing"}

    code, output = await migrate(tmp_path / "log", environment, "--wait-seconds", "600")

    assert code == 2
    assert "Error: MARTY_DATABASE_URL: " in output
    assert "write special characters as %XX" in output
    assert "pa55word" not in output
    assert "Traceback" not in output


async def test_a_certificate_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    certificate = tmp_path / "authority.crt"
    url = f"postgresql://user:pa55word@127.0.0.1:1/nothing?sslmode=verify-full&sslrootcert={certificate}"

    code, output = await migrate(tmp_path / "log", {"MARTY_DATABASE_URL": url}, "--wait-seconds", "600")

    assert code == 2
    assert f"sslrootcert={certificate} of the database URL names a file that is missing" in output
    assert "pa55word" not in output


async def test_a_database_that_comes_later_is_waited_for(empty_postgres_url: str, tmp_path: Path) -> None:
    parts = urlsplit(empty_postgres_url)
    async with proxy(parts.hostname or "", parts.port or 5432) as forward:
        forward.cut()
        environment = {"MARTY_DATABASE_URL": empty_postgres_url.replace(f":{parts.port}/", f":{forward.port}/")}
        log = tmp_path / "log"
        async with running(["-m", "marty_msf.cli", "migrate"], log, environment) as process:

            async def output() -> str:
                return process.output()

            await eventually(output, lambda text: "waiting: " in text)
            forward.restore()
            assert await process.wait() == 0


async def test_without_a_url_it_says_which_variable_is_missing(tmp_path: Path) -> None:
    code, output = await migrate(tmp_path / "log", {"MARTY_DATABASE_URL": ""})

    assert code == 2
    assert "MARTY_DATABASE_URL is not set" in output
