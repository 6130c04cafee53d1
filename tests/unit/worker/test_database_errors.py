"""What the driver raises, as the loops understand it."""

import asyncpg
import pytest

from marty_msf.core.errors import DatabaseUnavailable
from marty_msf.store.database import translate


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
