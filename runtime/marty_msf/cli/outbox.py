"""`marty outbox status` and `reset-cursor`."""

from collections.abc import Mapping
from typing import Any, Final

import click

from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.dlq_filters import person_options, relay_option
from marty_msf.cli.saga_orders import confirm
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.tables import duration, json_text
from marty_msf.core.outbox.dead_letters import Person
from marty_msf.store import outbox as events
from marty_msf.store import outbox_dead
from marty_msf.worker.relay.surface import verbs

#: Unread events are counted up to here.
_COUNTED_AT_MOST: Final = 1_000_000


@click.group()
def outbox() -> None:
    """Look at the outbox, and mend it after a restore.

    The database is the one of --database-url or MARTY_DATABASE_URL; without either, the one that the OutboxRelay in the
    cluster names.
    """


@outbox.command()
@relay_option
@target_options
@output_option
def status(relay: str | None, target: Target, output: str) -> None:
    """Say how far the outbox is published, and what stands in its way."""
    form = run(_status(target, relay))
    if output == "json":
        click.echo(json_text(form))
        return
    click.echo(f"Published:     {form['published_total']}")
    click.echo(f"Unread:        {form['unread']}, the oldest for {duration(round(form['lag_seconds'] * 1000))}")
    click.echo(f"Held:          {form['held']}, the oldest for {duration(round(form['oldest_held_seconds'] * 1000))}")
    click.echo(f"Refused:       {form['failed_total']} attempts in all")
    click.echo(f"Dead:          {form['dead']} now, {form['dead_total']} in all")
    writer = form["oldest_open_writer"]
    if writer:
        click.echo(f"Open writer:   {writer['name']} for {duration(round(writer['seconds'] * 1000))}")
    if form["dead"]:
        click.echo("Look at them:  marty dlq list")


async def _status(target: Target, relay: str | None) -> Mapping[str, Any]:
    async with opened(target.outbox(relay)) as conn:
        counted = await outbox_dead.numbers(conn)
        backlog = await events.backlog(conn, _COUNTED_AT_MOST)
        writer = await events.oldest_writer(conn)
    return {
        "published_total": counted.published_total,
        "unread": backlog.events,
        "lag_seconds": round(backlog.oldest_seconds, 3),
        "held": counted.held,
        "oldest_held_seconds": round(counted.oldest_held_seconds, 3),
        "failed_total": counted.failed_total,
        "dead": counted.dead,
        "dead_total": counted.dead_total,
        "oldest_open_writer": {"name": writer.name, "seconds": round(writer.seconds, 1)} if writer else None,
    }


@outbox.command("reset-cursor")
@click.option("--republish", is_flag=True, help="Publish every retained event again.")
@click.option("--skip", is_flag=True, help="Publish none of the events that are there.")
@person_options
@relay_option
@target_options
@output_option
def reset_cursor(
    republish: bool,
    skip: bool,
    person: Person,
    yes: bool,
    dry_run: bool,
    relay: str | None,
    target: Target,
    output: str,
) -> None:
    """Give the outbox of a database that was restored from a dump a new position; the relay then goes on by itself.

    Events that are held or dead stay so. Consumers discard what comes again by ce_martysequence.
    """
    if republish == skip:
        raise click.UsageError("give --republish or --skip: publish what is there again, or not at all")
    run(_reset(person, target, relay, republish=republish, yes=yes, dry_run=dry_run, json=output == "json"))


async def _reset(
    person: Person, target: Target, relay: str | None, *, republish: bool, yes: bool, dry_run: bool, json: bool
) -> None:
    how = "republish" if republish else "skip"
    async with opened(target.outbox(relay)) as conn:
        found = await verbs.reset_cursor(conn, person, republish=republish, dry_run=True)
        what = f"{how} {found.events} event{'' if found.events == 1 else 's'} ({found.held} more are held and stay so)"
        if not dry_run:
            confirm(f"{what}?", yes=yes)
            found = await verbs.reset_cursor(conn, person, republish=republish, dry_run=False)
    if json:
        click.echo(json_text({"how": how, "dry_run": dry_run, "events": found.events, "held": found.held}))
    else:
        click.echo(f"Would {what}. Nothing was changed." if dry_run else f"Done: {what}.")
