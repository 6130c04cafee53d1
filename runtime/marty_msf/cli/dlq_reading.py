"""`marty dlq list` and `show`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.dlq_filters import filter_options, relay_option
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.tables import age, json_text, one_line, table
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.outbox.dead_letters import Choice, event_id
from marty_msf.store import outbox_dead
from marty_msf.store.outbox_dead import Group, Letter
from marty_msf.worker.relay.surface import verbs
from marty_msf.worker.relay.surface.forms import group_form, letter_form, whole_form

_GROUPS: Final = 50
_TOP_ID: Final = (1 << 63) - 1
#: Of a payload, for people.
PAYLOAD_CHARACTERS: Final = 4_000
#: Fields of `show`, in its order, with what people read before them.
_SHOWN: Final = {
    "Event": "event_id",
    "State": "state",
    "Cause": "cause",
    "Error": "error",
    "Attempts": "attempts",
    "First failed": "first_failed_at",
    "Last failed": "last_failed_at",
    "Not copied": "dead_letter_topic_error",
    "Due": "due_at",
    "Enqueued": "created_at",
    "Topic": "topic",
    "Type": "event_type",
    "Aggregate": "aggregate_id",
    "Key": "message_key",
    "Priority": "priority",
}


@click.command("list")
@filter_options
@click.option("--all", "everything", is_flag=True, help="List the dead letters themselves, without a filter.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Dead letters at most.")
@click.option("--after", help="Continue behind this id: the last one of the page before.")
@relay_option
@target_options
@output_option
def list_(
    chosen: Choice,
    everything: bool,
    limit: int,
    after: str | None,
    relay: str | None,
    target: Target,
    output: str,
) -> None:
    """List the causes of dead letters, the most frequent first; with a filter the dead letters, the newest first."""
    below = _TOP_ID if after is None else id_of("--after", after)
    groups, found, dead = run(_read(target, relay, chosen, below, limit))
    page, more = found[:limit], len(found) > limit
    if output == "json":
        form = {"groups": [group_form(it) for it in groups], "dead_letters": [letter_form(it) for it in page]}
        click.echo(json_text({**form, "next": page[-1].id if more else None}))
    elif not page:
        click.echo("No dead letters found.", err=True)
    elif chosen.filtered or everything or after is not None:
        click.echo(_letters(page))
        if more:
            click.echo(f"{len(page)} shown, there are more: --after {page[-1].id}", err=True)
    else:
        if groups:
            click.echo(_causes(groups))
        if (rest := dead - sum(it.dead for it in groups)) > 0:
            told = "have a rarer cause or none" if groups else "have no cause, because deadLetter.analysis was off"
            click.echo(f"{rest} of the dead letters {told}: marty dlq list --all", err=True)


async def _read(
    target: Target, relay: str | None, chosen: Choice, below: int, limit: int
) -> tuple[list[Group], list[Letter], int]:
    """Causes, a page, and how many dead letters there are in all."""
    async with opened(target.outbox(relay)) as conn:
        groups = await outbox_dead.groups(conn, _GROUPS)
        return groups, await outbox_dead.page(conn, chosen, below, limit + 1), (await outbox_dead.numbers(conn)).dead


def _causes(groups: Sequence[Group]) -> str:
    rows = [
        [it.cause, str(it.dead), it.topic, it.event_type, age(it.last_at), str(it.sample or "-"), it.message]
        for it in groups
    ]
    return table(["CAUSE", "COUNT", "TOPIC", "TYPE", "LAST", "SAMPLE", "MESSAGE"], rows)


def _letters(letters: Sequence[Letter]) -> str:
    rows = [
        [
            str(it.id),
            it.topic,
            it.event_type,
            it.aggregate_id or "-",
            str(it.attempts),
            age(it.last_failed_at) if it.last_failed_at else "-",
            it.error or "-",
        ]
        for it in letters
    ]
    return table(["ID", "TOPIC", "TYPE", "AGGREGATE", "ATTEMPTS", "FAILED", "ERROR"], rows)


@click.command()
@click.argument("number", metavar="ID")
@relay_option
@target_options
@output_option
def show(number: str, relay: str | None, target: Target, output: str) -> None:
    """Show the event ID, its payload and headers, why it died, and what waits for it."""
    form = run(_show(target, relay, id_of("ID", number)))
    if output == "json":
        click.echo(json_text(form))
        return
    click.echo(f"{'Id:':<14}{form['id']}")
    for title, name in _SHOWN.items():
        if form[name] is not None:
            click.echo(f"{title + ':':<14}{one_line(str(form[name]))}")
    behind = f"{'at least ' if form['waiting_behind_is_more'] else ''}{form['waiting_behind']}"
    first = f", the first is {form['first_waiting']}" if form["first_waiting"] else ""
    click.echo(f"{'Behind it:':<14}{behind} of its aggregate{first}")
    for name, value in form["headers"].items():
        click.echo(f"{'Header:':<14}{name}: {one_line(value)}")
    text = form.get("payload")
    payload = one_line(text) if text is not None else f"base64 {form['payload_base64']}"
    rest = f"… ({len(payload):,} characters, all of them with -o json)" if len(payload) > PAYLOAD_CHARACTERS else ""
    click.echo(f"{'Payload:':<14}{payload[:PAYLOAD_CHARACTERS]}{rest}")
    if form["state"] == "Dead":
        click.echo(f"It waits for a person: marty dlq redrive | edit | discard {form['id']}")


async def _show(target: Target, relay: str | None, number: int) -> Mapping[str, Any]:
    async with opened(target.outbox(relay)) as conn:
        return whole_form(*await verbs.shown(conn, number))


def id_of(option: str, text: str) -> int:
    """The id that an option gives. Raises click.UsageError."""
    try:
        return event_id(text)
    except InvalidDefinition as error:
        raise click.UsageError(f"{option}: {error.problem}: {error.remedy}") from error
