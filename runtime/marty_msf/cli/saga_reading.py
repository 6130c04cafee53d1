"""`marty saga list`, `get` and `timeline`."""

from dataclasses import replace
from datetime import datetime
from typing import Final

import click

from marty_msf.cli import saga_text
from marty_msf.cli.connection import Found, Target, find, opened, run, target_options
from marty_msf.cli.saga_filters import filter_options
from marty_msf.cli.tables import age, duration, json_text, one_line, painted, table
from marty_msf.core.saga.instance import State
from marty_msf.core.saga.selection import Selection
from marty_msf.core.saga.short_ids import shortened, span
from marty_msf.store.saga_instance import Shown
from marty_msf.worker.saga.surface import listing
from marty_msf.worker.saga.surface.listing import Row
from marty_msf.worker.saga.surface.showing import Portrait, show

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the output."
)
saga_option = click.option("--saga", "name", help="Look among the instances of this saga only.")
_WAITS: Final = "waits for a person: marty saga retry | skip-step | resume | cancel"


@click.command("list")
@click.argument("name", required=False)
@filter_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Instances shown at most.")
@click.option("--after", help="Continue behind this id: the last one of the page before.")
@target_options
@output_option
def list_(name: str | None, chosen: Selection, limit: int, after: str | None, target: Target, output: str) -> None:
    """List instances of the saga NAME (all sagas without it), the newest first."""
    rows, more = run(_rows(target, name, chosen, limit, after))
    if output == "json":
        next_id = str(rows[-1].id) if more else None
        click.echo(json_text({"instances": [row.form() for row in rows], "next": next_id}))
        return
    if not rows:
        click.echo("No instances found.", err=True)
        return
    with_state = chosen.states is None or len(chosen.states) > 1
    click.echo(_table(rows, with_saga=name is None, with_state=with_state, with_diagnosis=chosen.stuck))
    if more:
        click.echo(f"{len(rows)} shown, there are more: --after {rows[-1].id}", err=True)


async def _rows(
    target: Target, name: str | None, chosen: Selection, limit: int, after: str | None
) -> tuple[list[Row], bool]:
    """The newest ones of all databases, and whether there are more."""
    if after is not None:
        below = span(after)[0]
        chosen = replace(chosen, below_id=min(below, chosen.below_id or below))
    rows: list[Row] = []
    for site in await target.sites(name):
        async with opened(site) as conn:
            rows += (await listing.page(conn, site.resources, chosen, limit + 1)).rows
    rows.sort(key=lambda row: row.id, reverse=True)
    return rows[:limit], len(rows) > limit


def _table(rows: list[Row], *, with_saga: bool, with_state: bool, with_diagnosis: bool) -> str:
    forms = shortened(row.id for row in rows)
    columns: dict[str, list[str]] = {"ID": [forms[row.id] for row in rows]}
    if with_saga:
        columns["SAGA"] = [row.resource for row in rows]
    columns["KEY"] = [row.business_key for row in rows]
    if with_state:
        columns["STATE"] = [row.state for row in rows]
    columns["STEP"] = [row.step or "-" for row in rows]
    columns["SINCE"] = [age(row.changed_at) for row in rows]
    if with_diagnosis:
        columns["DIAGNOSIS"] = [row.diagnosis or "-" for row in rows]
    else:
        columns["ERROR"] = [row.error or "-" for row in rows]
    return table(list(columns), list(zip(*columns.values(), strict=True)))


@click.command()
@click.argument("instance", metavar="ID")
@saga_option
@target_options
@output_option
def get(instance: str, name: str | None, target: Target, output: str) -> None:
    """Show the instance ID (its beginning is enough while it is unique) with its context."""
    found, it = run(_read(target, name, instance))
    if output == "json":
        click.echo(json_text({"saga": found.resource, **it.form()}))
        return
    shown = it.shown
    facts = {
        "ID": str(shown.id),
        "Saga": found.resource,
        "Key": one_line(shown.business_key),
        "State": painted(shown.state, shown.state) + (" (paused)" if it.instance.paused else ""),
        "Step": it.step or "-",
        "Waits for": _waits_for(it),
        "Error": one_line(shown.error or "-"),
        "Revision": shown.revision,
        "Trace": it.form()["traceparent"].split("-")[1],
        "Started": f"{_stamp(shown.started_at)} ({age(shown.started_at)} ago)",
        "Ended": _ended(shown),
        "Context": json_text(it.instance.context),
    }
    for label, text in facts.items():
        click.echo(f"{label + ':':<10} {text}")


@click.command()
@click.argument("instance", metavar="ID")
@saga_option
@click.option("--all", "every", is_flag=True, help="Show each of the calls that failed alike.")
@target_options
@output_option
def timeline(instance: str, name: str | None, every: bool, target: Target, output: str) -> None:
    """Show everything that happened to the instance ID: attempts, their durations, errors, verbs. Times are in UTC."""
    found, it = run(_read(target, name, instance))
    if output == "json":
        click.echo(json_text([line.form() for line in it.lines]))
        return
    shown = it.shown
    click.echo(f"{found.resource}  {shown.business_key}  {shown.id}  revision {shown.revision}")
    click.echo(f"{shown.started_at:%Y-%m-%d} (UTC)")
    rows = saga_text.timeline(it.lines, every=every)
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(3)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*padded, one_line(row[3])]).rstrip())
    if shown.state == State.PARKED:
        click.echo(_WAITS)


def _waits_for(it: Portrait) -> str:
    if not it.diagnosis:
        return "-"
    return f"{one_line(it.diagnosis)}{f' (stuck: no progress for {age(it.progress_at)})' if it.stuck else ''}"


async def _read(target: Target, name: str | None, text: str) -> tuple[Found, Portrait]:
    found = await find(await target.sites(name), text)
    async with opened(found.site) as conn:
        portrait = await show(conn, found.resource, found.id)
    if portrait is None:
        raise click.ClickException(f"{found.id}: was removed just now: look with `marty saga list`")
    return found, portrait


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _ended(shown: Shown) -> str:
    if shown.ended_at is None:
        return "-"
    lasted = duration(round((shown.ended_at - shown.started_at).total_seconds() * 1000))
    return f"{_stamp(shown.ended_at)} (took {lasted})"
