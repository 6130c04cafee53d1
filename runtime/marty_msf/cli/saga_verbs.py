"""`marty saga cancel`, `retry`, `skip-step`, `resume`, `edit-context`, `pause` and `migrate`."""

import getpass
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from marty_msf.cli.connection import Target, run, target_options
from marty_msf.cli.saga_filters import filter_options
from marty_msf.cli.saga_orders import Order, carry_out, confirm
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.saga_starting import json_object
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import RunState
from marty_msf.core.saga.migration import parsed
from marty_msf.core.saga.selection import OPEN, Selection
from marty_msf.worker.saga.surface.asking import Request


def verb_options(*, ids: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of all verbs; the command gets them as `Order` has them. `ids`: instances may be named."""
    named: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.argument("ids", metavar="[ID]...", nargs=-1),
        click.option("--saga", help="Of this saga: with filters all that fit, with IDs to look there only."),
    ]
    decorators: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        *(named if ids else []),
        filter_options,
        click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="At most."),
        click.option("--as", "by", help="Who asks, for the audit. [default: the user of this computer]"),
        click.option("-y", "--yes", is_flag=True, help="Do not ask back."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing."),
        click.option(
            "--wait", default=10.0, show_default=True, callback=_seconds, help="Seconds to wait for the answers."
        ),
        target_options,
        output_option,
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _seconds(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """How long to wait. click's own range lets nan through, which no clock ever reaches."""
    if not 0 <= value < math.inf:
        raise click.UsageError(f"--wait {value} is no number of seconds: give 0 or more, for instance 10")
    return value


def _order(verb: str, arguments: Mapping[str, Any], by: str | None, output: str, **options: Any) -> None:
    """Carry out one command."""
    run(carry_out(Order(request=requested(verb, arguments, by), json=output == "json", **options)))


def requested(verb: str, arguments: Mapping[str, Any], by: str | None) -> Request:
    """The verb, by the person of --as or the user of this computer. Raises click.UsageError."""
    try:
        # An empty --as is most likely of a variable that is not set: it must not become somebody else in the audit.
        person = f"{getpass.getuser()}@{socket.gethostname()}" if by is None else by
        return Request(verb, arguments, person)
    except InvalidDefinition as error:
        option = {"by": "as", "step": "stuck-step"}.get(error.path, error.path)
        raise click.UsageError(f"--{option}: {error.problem}: {error.remedy}") from error


@click.command()
@verb_options()
def cancel(by: str | None, output: str, **options: Any) -> None:
    """Undo what may have happened and end as Cancelled; possible before the pivot."""
    _order("cancel", {}, by, output, **options)


@click.command()
@verb_options()
def retry(by: str | None, output: str, **options: Any) -> None:
    """Call the step that a parked instance stands at again, as a new call: its idempotency key changes."""
    _order("retry", {}, by, output, **options)


@click.command("skip-step")
@verb_options()
@click.option("--stuck-step", help="Which one, when several are stuck.")
def skip_step(by: str | None, output: str, stuck_step: str | None, **options: Any) -> None:
    """Take the step that a parked instance stands at for handled, and go on."""
    _order("skip-step", {} if stuck_step is None else {"step": stuck_step}, by, output, **options)


@click.command()
@verb_options()
@click.option(
    "--type", "whole", metavar="NAME", help="The saga NAME itself, all of it: sets its spec.state to Running."
)
def resume(by: str | None, output: str, whole: str | None, **options: Any) -> None:
    """Let a paused instance go on, or a parked one where it stands, with the same idempotency key."""
    if whole is not None:
        _set_state(whole, RunState.RUNNING, **options)
    else:
        _order("resume", {}, by, output, **options)


@click.command()
@verb_options()
@click.option("--type", "whole", metavar="NAME", help="The saga NAME itself, all of it: sets its spec.state to Paused.")
def pause(by: str | None, output: str, whole: str | None, **options: Any) -> None:
    """Begin nothing more until resume; calls in flight are awaited."""
    if whole is not None:
        _set_state(whole, RunState.PAUSED, **options)
    else:
        _order("pause", {}, by, output, **options)


@click.command("edit-context")
@verb_options()
@click.option("--patch", required=True, help="JSON merge patch: members to set, null removes; or @FILE, @-.")
def edit_context(by: str | None, output: str, patch: str, **options: Any) -> None:
    """Change the context of a paused or parked instance."""
    _order("edit-context", {"patch": json_object("--patch", patch)}, by, output, **options)


@click.command()
@click.argument("name")
@verb_options(ids=False)
@click.option("--from", "former", required=True, metavar="REVISION", help="Of the instances to move.")
@click.option("--to", "latter", required=True, metavar="REVISION", help="That they follow from then on.")
@click.option("--map", "names", default="", help="Steps that have another name: old=new,…; the others keep theirs.")
def migrate(
    name: str, former: str, latter: str, names: str, by: str | None, output: str, chosen: Selection, **options: Any
) -> None:
    """Move instances of the saga NAME that have not ended from one revision of its definition to another.

    An instance moves while it rests: one that does not is paused, moved and resumed.
    """
    try:
        arguments = {"from": former, "to": latter, "map": dict(parsed(names))}
    except InvalidDefinition as error:
        raise click.UsageError(f"--{error}") from error
    if chosen.revision is not None:
        raise click.UsageError("--revision: say it with --from")
    states = chosen.states or tuple(sorted(it.value for it in OPEN))
    around = (requested("pause", {}, by), requested("resume", {}, by))
    options |= {"ids": (), "saga": name, "chosen": replace(chosen, states=states, revision=former), "around": around}
    _order("migrate", arguments, by, output, **options)


def _set_state(
    name: str,
    state: RunState,
    *,
    ids: Sequence[str],
    saga: str | None,
    chosen: Selection,
    target: Target,
    yes: bool,
    dry_run: bool,
    **_: Any,
) -> None:
    """The whole type: its pods stay and take no work, or take it again."""
    if ids or saga or chosen != Selection():
        raise click.UsageError("--type means a whole saga: leave IDs and filters out")
    namespace, _slash, plain = name.rpartition("/")
    place = Target(None, namespace or target.namespace, target.context, target.kubeconfig)
    cluster = place.cluster()
    what = f"spec.state of Saga {cluster.namespace}/{plain} to {state.value}"
    if dry_run:
        cluster.set_state(plain, state.value, dry_run=True)
        click.echo(f"Would set {what}. Nothing was changed.")
        return
    confirm(f"Set {what}?", yes=yes)
    cluster.set_state(plain, state.value, dry_run=False)
    click.echo(f"Set {what}. Watch it: kubectl get saga {plain} -n {cluster.namespace}")
