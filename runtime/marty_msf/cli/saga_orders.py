"""Carrying out a verb for the instances a command line means: look, ask back, ask, wait, tell."""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import click

from marty_msf.cli.connection import Site, Target, find, opened
from marty_msf.cli.tables import json_text, table
from marty_msf.core.saga.selection import Selection
from marty_msf.core.saga.short_ids import shortened
from marty_msf.store import saga_verb
from marty_msf.store.saga_verb import Verb
from marty_msf.worker.saga.surface import asking, listing
from marty_msf.worker.saga.surface.asking import Preview, Request

_SHOWN: Final = 10
_REFUSED: Final = 1
_NOT_ANSWERED: Final = 3
#: Instances asked for in one statement.
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Order:
    """What the options of a verb say."""

    ids: Sequence[str]
    saga: str | None
    chosen: Selection
    limit: int
    target: Target
    request: Request
    yes: bool
    dry_run: bool
    wait: float
    json: bool
    #: Asked of instances that do not rest, before and after the request itself.
    around: tuple[Request, Request] | None = None

    @property
    def filtered(self) -> bool:
        """Whether filters choose the instances."""
        return self.chosen != Selection()


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a verb for one instance."""

    preview: Preview
    verb: Verb
    #: Nobody answered, and no process runs that could.
    unowned: bool

    def form(self) -> Mapping[str, Any]:
        """As JSON values."""
        verb = self.verb
        return {
            **self.preview.form(),
            "verb": verb.verb,
            "by": verb.by,
            "asked_at": verb.asked_at.isoformat(),
            "done": verb.done,
            "answer": verb.answer,
        }


async def carry_out(order: Order) -> None:
    """Raises click.ClickException, and click.exceptions.Exit with the code of a verb that was not done."""
    previews: list[tuple[Site, Preview]] = []
    for site, instances in (await _instances(order)).items():
        async with opened(site) as conn:
            for instance, resource in instances.items():
                seen = await asking.preview(conn, resource, instance, order.request)
                previews += [] if seen is None else [(site, seen)]
    if order.dry_run:
        _show_previews(order, [it for _, it in previews])
        return
    _show_refused([it for _, it in previews])
    possible = [(site, it) for site, it in previews if it.refusal is None]
    if not possible:
        raise click.ClickException("nothing can be done, nothing was changed")
    if not order.yes:
        _show_effects(order, [it for _, it in possible])
    confirm(f"{order.request.verb} {_counted(len(possible))}?", yes=order.yes)
    _show_answers(order, await _answers(order, possible))


async def _instances(order: Order) -> Mapping[Site, Mapping[UUID, str]]:
    """Those the command line means, with their sagas."""
    if bool(order.ids) is order.filtered:
        raise click.UsageError("give either IDs or filters (--state parked --error refund …)")
    sites = await order.target.sites(order.saga)
    chosen: defaultdict[Site, dict[UUID, str]] = defaultdict(dict)
    for text in order.ids:
        found = await find(sites, text)
        chosen[found.site][found.id] = found.resource
    if order.ids:
        return chosen
    left = order.limit
    for site in sites:
        async with opened(site) as conn:
            page = await listing.page(conn, site.resources, order.chosen, left)
        chosen[site] = {row.id: row.resource for row in page.rows}
        left -= len(page.rows)
        if page.next is not None or not left:
            click.echo(f"Only the newest {_counted(order.limit)} of those that fit: see --limit.", err=True)
            break
    if left == order.limit:
        raise click.ClickException("no instance fits the filters: look with `marty saga list`")
    return chosen


async def _answers(order: Order, wanted: Sequence[tuple[Site, Preview]]) -> list[Answered]:
    answered: list[Answered] = []
    for site in dict.fromkeys(site for site, _ in wanted):
        here = {it.id: it for of, it in wanted if of == site}
        ids = list(here)
        async with opened(site) as conn:
            numbers: list[int] = []
            for first in range(0, len(ids), _BATCH):
                batch = ids[first : first + _BATCH]
                moving = [it for it in batch if not here[it].rests]
                before, after = order.around or (None, None)
                if before:
                    await asking.ask(conn, moving, before)
                numbers += await asking.ask(conn, batch, order.request)
                if after:
                    await asking.ask(conn, moving, after)
            for verb in await asking.answers(conn, numbers, order.wait):
                it = here[verb.instance]
                unowned = verb.done is None and not await saga_verb.has_worker(conn, f"saga:{it.resource}")
                answered.append(Answered(it, verb, unowned))
    return answered


def _show_previews(order: Order, previews: Sequence[Preview]) -> None:
    if order.json:
        click.echo(json_text([it.form() for it in previews]))
        return
    _show_refused(previews)
    possible = [it for it in previews if it.refusal is None]
    if possible:
        _show_effects(order, possible)
    click.echo(f"Would {order.request.verb} {_counted(len(possible))}. Nothing was changed.")


def _show_effects(order: Order, previews: Sequence[Preview]) -> None:
    forms = shortened(it.id for it in previews)
    rows = [[forms[it.id], it.business_key, it.effect] for it in previews[:_SHOWN]]
    click.echo(table(["ID", "KEY", f"EFFECT OF {order.request.verb.upper()}"], rows))
    if len(previews) > _SHOWN:
        click.echo(f"… and {len(previews) - _SHOWN} more")


def _show_refused(previews: Sequence[Preview]) -> None:
    reasons = Counter(it.refusal for it in previews if it.refusal is not None)
    for reason, times in reasons.most_common(_SHOWN):
        example = next(it for it in previews if it.refusal == reason)
        others = f" and {times - 1} more" if times > 1 else ""
        click.echo(f"{example.id}{others}: not possible: {reason}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask back unless --yes was given; without a terminal to ask on, only --yes goes on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            "this changes something and nobody is here to be asked: give --yes, or --dry-run to look"
        )
    click.confirm(question, abort=True)


def _show_answers(order: Order, answered: Sequence[Answered]) -> None:
    """Tell the answers; the exit code is 1 when something was refused, 3 when something is still open."""
    if order.json:
        click.echo(json_text([it.form() for it in answered]))
    forms = shortened(it.preview.id for it in answered)
    done = [it for it in answered if it.verb.done]
    refused = [it for it in answered if it.verb.done is False]
    still_open = [it for it in answered if it.verb.done is None]
    if not order.json:
        for it in done[:_SHOWN]:
            click.echo(
                f"{forms[it.preview.id]}  {it.preview.business_key}  {order.request.verb} done: {it.verb.answer}"
            )
        if len(done) > _SHOWN:
            click.echo(f"… and {len(done) - _SHOWN} more done")
        if len(done) == 1:
            click.echo(f"Follow it: marty saga timeline {done[0].preview.id}")
    for it in refused[:_SHOWN]:
        click.echo(f"{forms[it.preview.id]}  refused: {it.verb.answer}", err=True)
    _show_open(order, still_open)
    if still_open or refused:
        raise click.exceptions.Exit(_NOT_ANSWERED if still_open else _REFUSED)


def _show_open(order: Order, still_open: Sequence[Answered]) -> None:
    if not still_open:
        return
    unowned = sorted({it.preview.resource for it in still_open if it.unowned})
    why = (
        f"no worker of {', '.join(unowned)} runs now"
        if unowned
        else "the owner of the lane did not come to it yet (see the saga's status, or give a longer --wait)"
    )
    click.echo(
        f"{_counted(len(still_open))} not answered after {order.wait:g} s: {why}. "
        "The request stays, and is answered as soon as a worker can.",
        err=True,
    )


def _counted(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'}"
