"""`marty saga archive`: ended instances into a file, before the retention takes them."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar

import click

from marty_msf.cli.archive_file import archive_file
from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.tables import json_text
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.ended import Ended, ended
from marty_msf.worker.saga.archiving import archived
from marty_msf.worker.saga.clock import now_ms

T = TypeVar("T")
#: Instances between two lines of progress.
_STRIDE: Final = 10_000


def ended_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the filters of ended instances; the command gets them as `chosen`."""

    @click.option("--state", help="One or more of completed, compensated, failed, cancelled.")
    @click.option("--since", help="Ended in the last 90s, 30m, 2h or 3d, or since a time (2026-01-31T12:00Z).")
    @click.option("--before", help="Ended longer ago than that, or before a time.")
    @wraps(command)
    def wrapped(*arguments: Any, state: str | None, since: str | None, before: str | None, **options: Any) -> T:
        try:
            chosen = ended(state=state, since=since, before=before, now_ms=now_ms())
        except InvalidDefinition as problem:
            raise click.UsageError(f"--{problem}") from problem
        return command(*arguments, chosen=chosen, **options)

    return wrapped


@click.command()
@click.argument("name", metavar="SAGA")
@ended_options
@click.option("--to", "file", required=True, metavar="FILE", help="New file; NAME.gz is compressed; - is stdout.")
@target_options
@output_option
def archive(name: str, chosen: Ended, file: str, target: Target, output: str) -> None:
    """Write the ended instances of SAGA into FILE: one JSON object a line, with context and timeline.

    Works beside the workers and changes nothing. FILE appears when it is whole; one that exists is left alone.
    """
    resource, states, unreadable = run(_archive(name, chosen, file, target))
    if output == "json":
        facts: Mapping[str, Any] = {
            "saga": resource,
            "instances": states.total(),
            "states": dict(states),
            "unreadable": unreadable,
            "file": file,
        }
        click.echo(json_text(facts), err=file == "-")
    else:
        click.echo(f"{resource}: {_told(states)} archived{'' if file == '-' else f' in {file}'}", err=file == "-")
    if unreadable:
        click.echo(f"{unreadable} of them cannot be read: their lines hold the journal as it is", err=True)


async def _archive(name: str, chosen: Ended, file: str, target: Target) -> tuple[str, Counter[str], int]:
    (site,) = await target.sites(name)
    (resource,) = site.resources or ()
    states: Counter[str] = Counter()
    unreadable = 0
    async with opened(site) as conn:
        with archive_file(file) as lines:
            async for page in archived(conn, resource, chosen):
                for it in page:
                    lines.write(it.line + b"\n")
                    unreadable += it.unreadable is not None
                before = states.total()
                states.update(it.state for it in page)
                if states.total() // _STRIDE > before // _STRIDE:
                    click.echo(f"{states.total()} instances …", err=True)
    return resource, states, unreadable


def _told(states: Mapping[str, int]) -> str:
    """How many, and of which states."""
    total = sum(states.values())
    parts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"{total} instance{'' if total == 1 else 's'}{f' ({parts})' if parts else ''}"
