"""The shop's database: made with its roles, watched by an independent ledger, read for the check table."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from dev.demo.manifests import SHOP

DATABASE: Final = "shop"
SHOP_ROLE: Final = "shop"
MARTY_ROLE: Final = "shop_marty"

EXISTS: Final = "SELECT count(*) > 0 FROM pg_database WHERE datname = $1"
#: CREATE DATABASE takes no parameters and runs in no transaction.
CREATE: Final = "CREATE DATABASE shop"
DROP: Final = "DROP DATABASE IF EXISTS shop WITH (FORCE)"

SET_PASSWORD: Final = "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)"


@dataclass(frozen=True, slots=True)
class Passwords:
    """Of the two roles; never printed, never on a command line, never in the repository."""

    shop: str = field(repr=False)
    marty: str = field(repr=False)

    @classmethod
    def generate(cls) -> "Passwords":
        return cls(secrets.token_urlsafe(24), secrets.token_urlsafe(24))


def secrets_for_pods(passwords: Passwords) -> Mapping[str, str]:
    """Name of the Secret to the connection URL that stands in its key `uri`."""
    return {
        "shop-db": f"postgresql://{SHOP_ROLE}:{passwords.shop}@postgres:5432/{DATABASE}",
        "marty-db": f"postgresql://{MARTY_ROLE}:{passwords.marty}@postgres:5432/{DATABASE}",
    }


def password_in(url: str) -> str:
    """The password of a connection URL that `secrets_for_pods` made."""
    found = urlsplit(url).password
    if not found:
        raise ValueError("the Secret's uri has no password: delete the namespace and run the demo again")
    return found


def of_database(admin_url: str, database: str = DATABASE) -> str:
    """The administrator's URL, for another database of the same server."""
    return urlunsplit(urlsplit(admin_url)._replace(path=f"/{database}"))


async def drop(admin_url: str) -> None:
    """Remove what an earlier cluster's shop left in the server."""
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(DROP)
    finally:
        await connection.close()


async def prepare(admin_url: str, passwords: Passwords) -> None:
    """The database with its roles and grants (examples/shop/database.sql). Safe to repeat."""
    connection = await asyncpg.connect(admin_url)
    try:
        if not await connection.fetchval(EXISTS, DATABASE):
            await connection.execute(CREATE)
    finally:
        await connection.close()
    connection = await asyncpg.connect(of_database(admin_url))
    try:
        await connection.execute((SHOP / "database.sql").read_text())
        for role, password in ((SHOP_ROLE, passwords.shop), (MARTY_ROLE, passwords.marty)):
            await connection.execute(await connection.fetchval(SET_PASSWORD, role, password))
    finally:
        await connection.close()
