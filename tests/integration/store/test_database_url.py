"""What a URL that cannot work leads to: a remedy, and no part of its password."""

import traceback

import pytest

from marty_msf.core.errors import DatabaseUnavailable
from marty_msf.store.database import open_pool, translate

pytestmark = pytest.mark.postgres


async def refusal(url: str) -> DatabaseUnavailable:
    pool = await open_pool(url, 1, "test")
    try:
        with pytest.raises(DatabaseUnavailable) as refused, translate():
            async with pool.acquire():
                pass
    finally:
        await pool.close()
    return refused.value


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:SECRET@127.0.0.1/x",
        "postgresql://user:SECRET#MARK@127.0.0.1/x",
        "postgresql://user:SECRET/MARK@127.0.0.1/x",
        "postgresql://user:SECRET?MARK@127.0.0.1/x",
        "postgresql://user:SECRET%ZZ#MARK@127.0.0.1/x",
        "postgresql://user:pass@[SECRET@127.0.0.1/x",
        "postgresql://user:pass@SECRET..MARK/x",
        "postgresql://user:SECRET@127.0.0.1:port/x",
        "postgresql://user:SECRET@127.0.0.1:99999/x",
        "postgresql://user:SECRET@127.0.0.1/x?MARK",
        "postgresql://user:SECRET@127.0.0.1/x?sslmode=MARK",
    ],
)
async def test_a_malformed_url_is_told_without_any_of_it(url: str) -> None:
    error = await refusal(url)
    assert "write special characters as %XX" in str(error)
    told = "".join(traceback.format_exception(error))
    assert not [part for part in ("SECRET", "MARK", "ValueError") if part in told], told
    assert error.__cause__ is error.__context__ is None


async def test_an_unknown_parameter_is_no_missing_schema(postgres_url: str) -> None:
    error = await refusal(f"{postgres_url}?bogus=x")
    assert 'unrecognized configuration parameter "bogus"' in str(error)
    assert "spec.database.urlSecretRef" in str(error)


async def test_a_parameter_with_a_value_that_cannot_be(postgres_url: str) -> None:
    error = await refusal(f"{postgres_url}?work_mem=MARK")
    assert "the value of a parameter" in str(error)
    assert "MARK" not in str(error)


async def test_a_missing_certificate_has_a_remedy_of_its_own() -> None:
    error = await refusal("postgresql://user:SECRET@127.0.0.1/x?sslmode=verify-full")
    assert "sslmode=require" in str(error)
    assert "%XX" not in str(error)
