"""Connections to the team's Postgres, and the translation of the driver's errors into ours."""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from marty_msf.core.errors import DatabaseUnavailable, InvalidDatabaseUrl, LockUnavailable, SchemaOutdated

#: No statement of ours runs longer in health; a connection that hangs (a lost route, a stopped server) is given up.
STATEMENT_TIMEOUT_SECONDS: Final = 60
#: Short, so that a server that takes the connection and then says nothing is told of within ten seconds.
CONNECT_TIMEOUT_SECONDS: Final = 4

#: What is to be corrected, for those whose URL comes from a resource and for those who gave it themselves.
_REFERENCE: Final = "the database URL (in a cluster the secret of spec.database.urlSecretRef)"
#: SQLSTATE classes and codes that mean "not now": the transaction was rolled back, the same call may succeed later.
_UNAVAILABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "08": "the connection broke",
        "53": "the server has no resources left (disk, memory or connections)",
        "57": "the server is starting, stopping or cancelled the statement",
        "58": "the server met a system error",
        "25006": "this server is read-only (a standby?): let the URL name the primary",
        "28": f"the server refused the user or the password: correct {_REFERENCE}",
        "3D000": f"the database does not exist: create it, or correct {_REFERENCE}",
        "40": "the transaction met a concurrent one and was rolled back",
        "42501": "a privilege is missing: grant the user USAGE on schema marty and the rights on its tables and functions",
    }
)
_LOCK_NOT_AVAILABLE: Final = "55P03"
_NO_URL: Final = (
    f"{_REFERENCE} is no postgresql://user:password@host:port/database: correct it; write special characters as %XX"
)
_CERTIFICATE: Final = (
    "sslmode=verify-ca and verify-full need the certificate of an authority, and there is none: "
    f"name its file with sslrootcert or use sslmode=require in {_REFERENCE}"
)
#: Parameters of the URL that name a file of this machine.
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
#: Of a statement. An unknown parameter of the URL has 42704 too: see connect().
_OUTDATED: Final = frozenset({"3F000", "42P01", "42703", "42883", "42704"})


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection whose return to the pool costs no round trip: our statements leave no session state behind."""

    def get_reset_query(self) -> str:
        return ""


@contextmanager
def translate() -> Iterator[None]:
    """Turn what the driver raises into DatabaseUnavailable or SchemaOutdated; programming errors pass unchanged."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state in _OUTDATED:
            raise SchemaOutdated(
                f"{error}: the schema is older than this program or missing: run `marty migrate`"
            ) from error
        if state == _LOCK_NOT_AVAILABLE:
            raise LockUnavailable(f"a lock was not available in time: {error} (SQLSTATE {state})") from error
        for prefix in (state, state[:2]):
            if prefix in _UNAVAILABLE:
                raise DatabaseUnavailable(f"{_UNAVAILABLE[prefix]}: {error} (SQLSTATE {state})") from error
        raise
    except ssl.SSLCertVerificationError as error:
        raise DatabaseUnavailable(
            f"the server's certificate is not accepted: {error.verify_message}: write its host name and, as sslrootcert, "
            f"the authority that signed it, or use sslmode=require without sslrootcert, in {_REFERENCE}"
        ) from error
    except (OSError, TimeoutError) as error:
        raise DatabaseUnavailable(_no_answer("Postgres", error)) from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # What the driver raises for a connection that the server ended, between two statements or within one.
        raise DatabaseUnavailable(f"the connection broke: {_sentence(error)}: it is made anew") from error


async def connect(url: str, **options: Any) -> asyncpg.Connection:
    """One connection, with `options` as asyncpg.connect takes them.

    Raises InvalidDatabaseUrl for whatever the URL has wrong, without the driver's words: they may quote parts of the
    URL and with them the password; and DatabaseUnavailable, with the server's address, when nothing answers there. What
    a server refuses passes unchanged, for translate().
    """
    if not url:
        # The driver would look for a server of its own defaults.
        raise InvalidDatabaseUrl(_NO_URL)
    try:
        return await asyncpg.connect(url, **{"timeout": CONNECT_TIMEOUT_SECONDS, **options})
    except (ValueError, OverflowError, OSError, asyncpg.PostgresError) as error:
        wrong = _fault_of(url, error)
        if wrong is None and isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            raise DatabaseUnavailable(_no_answer(_address(url), error)) from error
        if wrong is None:
            raise
    # Outside of the handler, so that no traceback leads back to the driver's error.
    raise InvalidDatabaseUrl(wrong)


def _fault_of(url: str, error: Exception) -> str | None:
    """What the URL has wrong when connecting with it raised `error`; None when the error is not the URL's."""
    match error:
        case asyncpg.UndefinedObjectError():
            return f"the server refuses a parameter after the ? of the database URL: {error}: correct {_REFERENCE}"
        case asyncpg.InvalidParameterValueError():
            return f"the server refuses the value of a parameter after the ? of the database URL: correct {_REFERENCE}"
        case FileNotFoundError() | PermissionError() | IsADirectoryError() | NotADirectoryError():
            return _unreadable_file(url)
        case OSError() | asyncpg.PostgresError():  # a server's certificate that is not accepted among them
            return None
        case _:  # ClientConfigurationError, UnicodeError and bad ports
            return _CERTIFICATE if "certificate" in str(error) else _NO_URL


def _unreadable_file(url: str) -> str | None:
    """The driver's error does not say which file it is."""
    parameters = parse_qs(urlsplit(url).query)
    for name in _FILES:
        path = parameters.get(name, [""])[-1]
        if path and not (Path(path).is_file() and os.access(path, os.R_OK)):
            return (
                f"{name}={path} of the database URL names a file that is missing here or cannot be read: "
                f"name one that is here, or leave {name} out, in {_REFERENCE}"
            )
    return None


async def open_pool(url: str, size: int, application_name: str) -> asyncpg.Pool:
    """A pool that connects on first use, so that it can be made while the server is down or the URL is wrong."""
    return await asyncpg.create_pool(
        url,
        connect=connect,
        min_size=0,
        max_size=size,
        connection_class=PooledConnection,
        command_timeout=STATEMENT_TIMEOUT_SECONDS,
        timeout=CONNECT_TIMEOUT_SECONDS,
        # JIT never pays for short statements. The application name is how people find us in pg_stat_activity.
        server_settings={"application_name": application_name[:63], "jit": "off"},
    )


def _address(url: str) -> str:
    """Where the URL points, for people; nothing else of it."""
    _, _, servers = urlsplit(url).netloc.rpartition("@")
    return f"Postgres at {servers}" if servers else "Postgres"


def _no_answer(server: str, error: BaseException) -> str:
    return f"{server} does not answer: {_sentence(error)}: workers try again by themselves; check the server, the network and the URL"


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
