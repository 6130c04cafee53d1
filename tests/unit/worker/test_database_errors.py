"""What the driver raises, as the loops understand it."""

import re
import ssl
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.errors import DatabaseUnavailable, InvalidDatabaseUrl
from marty_msf.store.database import connect, translate

REFERENCE = "the database URL (in a cluster the secret of spec.database.urlSecretRef)"


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.InterfaceError("connection is closed"),
    ],
)
def test_a_connection_that_broke_is_an_outage_and_no_bug(error: Exception) -> None:
    with pytest.raises(DatabaseUnavailable), translate():
        raise error


@pytest.mark.parametrize(
    ("mode", "parameter"),
    [("verify-full", "sslrootcert"), ("require", "sslrootcert"), ("require", "sslcrl"), ("prefer", "sslcert")],
)
async def test_a_file_of_the_url_that_is_not_there_is_named_with_its_remedy(
    mode: str, parameter: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.pem"

    with pytest.raises(InvalidDatabaseUrl) as refused, translate():
        await connect(f"postgresql://user:SECRET@127.0.0.1:1/x?sslmode={mode}&{parameter}={missing}")

    assert str(refused.value).startswith(f"{parameter}={missing} of the database URL names a file that is missing")
    assert f"leave {parameter} out, in {REFERENCE}" in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("error", [asyncpg.InvalidPasswordError, asyncpg.InvalidCatalogNameError])
def test_what_is_to_be_corrected_is_told_with_and_without_a_cluster(error: type[Exception]) -> None:
    with pytest.raises(DatabaseUnavailable, match=re.escape(f"correct {REFERENCE}")), translate():
        raise error("no")


async def test_an_empty_url_is_a_wrong_one_and_never_the_drivers_default() -> None:
    with pytest.raises(InvalidDatabaseUrl, match="is no postgresql://"), translate():
        await connect("")


async def test_a_socket_that_is_not_there_is_an_outage_and_no_wrong_url(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="Postgres does not answer") as refused, translate():
        await connect(f"postgresql://user:SECRET@/x?host={tmp_path}")

    assert not isinstance(refused.value, InvalidDatabaseUrl)


def test_a_certificate_of_the_server_that_is_not_accepted_is_told_as_that() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"

    with pytest.raises(DatabaseUnavailable, match="is not accepted: self-signed certificate: write"), translate():
        raise error
