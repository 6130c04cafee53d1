"""`marty migrate`: what the operator's migration Job runs."""

import asyncio
import math
import os
import time
from collections.abc import Sequence
from typing import Final

import click

from marty_msf.core.errors import DatabaseUnavailable, InvalidDatabaseUrl
from marty_msf.store.database import CONNECT_TIMEOUT_SECONDS, connect, translate
from marty_msf.store.migrations import Migration, required_version
from marty_msf.store.migrations import migrate as apply_migrations

RETRY_SECONDS: Final = 1


@click.command()
@click.option(
    "--wait-seconds",
    default=60.0,
    show_default=True,
    help="Retry an unreachable database for this long.",
)
def migrate(wait_seconds: float) -> None:
    """Install or upgrade the schema `marty` in the database of MARTY_DATABASE_URL.

    Safe to run any number of times and at once; exit code 0 when the database is at the newest version,
    2 when the URL itself is wrong, 1 when the database cannot be used within the wait.
    """
    if not (math.isfinite(wait_seconds) and wait_seconds >= 0):
        raise click.UsageError(f"--wait-seconds {wait_seconds} is no number of seconds: give one, for instance 60")
    url = os.environ.get("MARTY_DATABASE_URL")
    if not url:
        raise click.UsageError("MARTY_DATABASE_URL is not set: give it the URL of the database to migrate")
    applied = asyncio.run(_migrate(url, time.monotonic() + wait_seconds))
    click.echo(
        f"the schema is at version {required_version()}; "
        + (f"{len(applied)} migrations were applied now" if applied else "nothing was to be done")
    )


async def _migrate(url: str, deadline: float) -> Sequence[Migration]:
    while True:
        try:
            return await _attempt(url)
        except InvalidDatabaseUrl as error:
            raise click.UsageError(f"MARTY_DATABASE_URL: {error}") from error
        except DatabaseUnavailable as error:
            if time.monotonic() >= deadline:
                raise click.ClickException(str(error)) from error
            click.echo(f"waiting: {error}", err=True)
            await asyncio.sleep(RETRY_SECONDS)


async def _attempt(url: str) -> Sequence[Migration]:
    with translate():
        conn = await connect(url)
        try:
            return await apply_migrations(conn, lambda done: click.echo(f"applied {done.version:04d}_{done.name}"))
        finally:
            await conn.close(timeout=CONNECT_TIMEOUT_SECONDS)
