"""`marty dlq redrive`, `discard` and `edit`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.dlq_filters import filter_options, ids_argument, person_options, relay_option
from marty_msf.cli.dlq_reading import id_of
from marty_msf.cli.saga_orders import confirm
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.saga_starting import json_object
from marty_msf.cli.tables import json_text, one_line, table
from marty_msf.core.errors import NotDead
from marty_msf.core.outbox.dead_letters import Choice, Edit, Person
from marty_msf.worker.relay.surface import verbs

#: Between two lines that say how far a large verb is.
_STRIDE: Final = 10_000


@click.command()
@ids_argument
@filter_options
@click.option("--all", "everything", is_flag=True, help="All dead letters there are.")
@person_options
@relay_option
@target_options
@output_option
def redrive(**options: Any) -> None:
    """Let dead letters be tried again, as if they had never failed; those of one aggregate in their order."""
    run(_bulk(verbs.REDRIVE, **options))


@click.command()
@ids_argument
@filter_options
@click.option("--all", "everything", is_flag=True, help="All dead letters there are.")
@person_options
@relay_option
@target_options
@output_option
def discard(**options: Any) -> None:
    """Remove dead letters for good; what waited for them goes on. There is no way back."""
    run(_bulk(verbs.DISCARD, **options))


async def _bulk(
    verb: str,
    *,
    chosen: Choice,
    everything: bool,
    person: Person,
    yes: bool,
    dry_run: bool,
    relay: str | None,
    target: Target,
    output: str,
) -> None:
    if chosen.filtered is everything or (chosen.ids is not None and len(chosen.form()) > 1):
        raise click.UsageError("give either IDs, or filters (--cause 0123456789ab …), or --all")
    async with opened(target.outbox(relay)) as conn:
        seen = await verbs.preview(conn, chosen)
        if not seen.events and not seen.refused:
            raise click.ClickException("no dead letter fits: look with `marty dlq list`")
        if output != "json" or not dry_run:
            _show_refused(seen.refused)
        if not seen.events:
            raise click.ClickException("nothing can be done, nothing was changed")
        of = f"{_counted(seen.events)} of {seen.aggregates} aggregate{'' if seen.aggregates == 1 else 's'}"
        if dry_run:
            if output == "json":
                click.echo(json_text({"verb": verb, "dry_run": True, **seen.form()}))
                return
            _show_sample(seen)
            click.echo(f"Would {verb} {of}. Nothing was changed.")
            return
        if not yes:
            _show_sample(seen)
        confirm(f"{verb} {of}{' for good' if verb == verbs.DISCARD else ''}?", yes=yes)
        done = await verbs.carry_out(conn, verb, seen.chosen, person, _progress)
    form = {"verb": verb, "by": person.who, "affected": done.affected, "refused": verbs.refused_form(done.refused)}
    past = {verbs.REDRIVE: "redriven", verbs.DISCARD: "discarded"}[verb]
    click.echo(json_text(form) if output == "json" else f"{_counted(done.affected)} {past}.")
    if done.refused:
        raise click.exceptions.Exit(1)


def _progress(affected: int) -> None:
    if affected and affected % _STRIDE < verbs.BATCH and affected >= _STRIDE:
        click.echo(f"{affected} dead letters …", err=True)


def _show_refused(refused: Mapping[int, NotDead]) -> None:
    for reason in refused.values():
        click.echo(str(reason), err=True)


def _show_sample(seen: verbs.Preview) -> None:
    rows = [[str(it.id), it.topic, it.event_type, it.aggregate_id or "-", it.error or "-"] for it in seen.sample]
    click.echo(table(["ID", "TOPIC", "TYPE", "AGGREGATE", "ERROR"], rows))
    if seen.events > len(rows):
        click.echo(f"… and {seen.events - len(rows)} more")


@click.command()
@click.argument("number", metavar="ID")
@click.option("--payload", help="The whole new payload: text, @FILE with its bytes, or @- for stdin.")
@click.option("--headers", help="JSON merge patch: headers to set, null removes; or @FILE, @-.")
@person_options
@relay_option
@target_options
@output_option
def edit(
    number: str,
    payload: str | None,
    headers: str | None,
    person: Person,
    yes: bool,
    dry_run: bool,
    relay: str | None,
    target: Target,
    output: str,
) -> None:
    """Change the dead letter ID; what it was stays in the audit. Redrive it afterwards."""
    if payload is None and headers is None:
        raise click.UsageError("give --payload or --headers")
    content = None if payload is None else _bytes(payload)
    change = Edit(content, None if headers is None else json_object("--headers", headers))
    run(_edit(id_of("ID", number), change, person, target, relay, yes=yes, dry_run=dry_run, json=output == "json"))


async def _edit(
    number: int,
    change: Edit,
    person: Person,
    target: Target,
    relay: str | None,
    *,
    yes: bool,
    dry_run: bool,
    json: bool,
) -> None:
    async with opened(target.outbox(relay)) as conn:
        seen = await verbs.edit(conn, number, change, person, dry_run=True)
        if not json and (dry_run or not yes):
            for sign, form in (("-", verbs.content_form(seen.before)), ("+", verbs.content_form(seen.after))):
                for name, value in form.items():
                    click.echo(f"{sign} {name}: {one_line(value if isinstance(value, str) else json_text(value))}")
        if not dry_run:
            confirm(f"edit event {number}?", yes=yes)
            seen = await verbs.edit(conn, number, change, person, dry_run=False)
    if json:
        click.echo(json_text({"id": number, "dry_run": dry_run, **seen.form()}))
    elif dry_run:
        click.echo(f"Would edit event {number}. Nothing was changed.")
    else:
        click.echo(f"Event {number} edited. Send it: marty dlq redrive {number}")


def _bytes(text: str) -> bytes:
    """What --payload gives. Raises click.UsageError."""
    if not text.startswith("@"):
        return text.encode(errors="surrogateescape")
    try:
        return sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--payload: {text}: {error}: name a file") from error


def _counted(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"
