"""`marty saga archive` and `prune`: ended instances into a file, and away before the retention takes them."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar

import click

from marty_msf.cli.archive_file import archive_file
from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.saga_orders import confirm
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.tables import json_text
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.ended import Ended, ended
from marty_msf.store import saga_history
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.history.pruning import pruned
from marty_msf.worker.saga.surface.archiving import archived

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


@click.command()
@click.argument("name", metavar="SAGA")
@ended_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask back.")
@click.option("--dry-run", is_flag=True, help="Say how many would be removed, change nothing.")
@target_options
@output_option
def prune(name: str, chosen: Ended, yes: bool, dry_run: bool, target: Target, output: str) -> None:
    """Remove ended instances of SAGA before their retention is over; --before is needed. There is no way back.

    Their business keys are free again. The space of journals is freed by the workers, when a day's partition may go.
    """
    if chosen.before == Ended().before:
        raise click.UsageError("give --before: 7d for what ended over a week ago")
    run(_prune(name, chosen, target, yes=yes, dry_run=dry_run, json=output == "json"))


async def _prune(name: str, chosen: Ended, target: Target, *, yes: bool, dry_run: bool, json: bool) -> None:
    (site,) = await target.sites(name)
    (resource,) = site.resources or ()
    async with opened(site) as conn:
        number = await saga_history.count(conn, resource, chosen)
        if dry_run:
            facts = {"saga": resource, "would_remove": number}
            text = f"Would remove {_ended(number)} of {resource}. Nothing was changed."
            click.echo(json_text(facts) if json else text)
            return
        if number:
            confirm(f"remove {_ended(number)} of {resource} for good?", yes=yes)
        removed = 0
        async for step in pruned(conn, resource, chosen):
            if (removed + step) // _STRIDE > removed // _STRIDE:
                click.echo(f"{removed + step} instances …", err=True)
            removed += step
    facts = {"saga": resource, "removed": removed}
    click.echo(json_text(facts) if json else f"{resource}: {_counted(removed)} removed")


def _ended(number: int) -> str:
    return f"{number} ended instance{'' if number == 1 else 's'}"


def _told(states: Mapping[str, int]) -> str:
    """How many, and of which states."""
    parts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"{_counted(sum(states.values()))}{f' ({parts})' if parts else ''}"


def _counted(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'}"
