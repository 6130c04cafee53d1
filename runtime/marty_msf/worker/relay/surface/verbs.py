"""Redrive, discard and edit dead letters, and give a restored outbox a new position: first looked at, then done.

A bulk verb goes in batches, each a transaction with its line in the audit: what was done stays done when the rest fails.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from asyncpg import Connection

from marty_msf.core.errors import InvalidDefinition, NotDead
from marty_msf.core.outbox.dead_letters import Choice, Content, Edit, Person, edited
from marty_msf.store import outbox_dead, outbox_dead_verb, outbox_reset
from marty_msf.store.outbox_dead import Letter, Whole
from marty_msf.worker.relay.surface.forms import letter_form, payload_form

REDRIVE: Final = "redrive"
DISCARD: Final = "discard"
#: Dead letters of one transaction: the relay waits for it while it moves the same lanes.
BATCH: Final = 500
SAMPLE: Final = 5
_TOP_ID: Final = (1 << 63) - 1

_Step = Callable[[Connection, Sequence[int]], Awaitable[list[int]]]
_STEPS: Final[Mapping[str, _Step]] = {REDRIVE: outbox_dead_verb.redrive, DISCARD: outbox_dead_verb.discard}


@dataclass(frozen=True, slots=True)
class Preview:
    """What a verb would be about."""

    #: The choice with its time bounded: what dies from now on is not meant.
    chosen: Choice
    events: int
    aggregates: int
    #: Some of them, the newest.
    sample: Sequence[Letter]
    #: Ids that were named and are not dead: why, with the remedy.
    refused: Mapping[int, NotDead]

    def form(self) -> Mapping[str, Any]:
        """As JSON values."""
        return {
            "events": self.events,
            "aggregates": self.aggregates,
            "sample": [letter_form(it) for it in self.sample],
            "refused": refused_form(self.refused),
        }


@dataclass(frozen=True, slots=True)
class Done:
    """What a verb did."""

    affected: int
    refused: Mapping[int, NotDead]


async def preview(conn: Connection, chosen: Choice) -> Preview:
    """Look without changing anything."""
    if chosen.ids is None:
        now = await outbox_dead.now(conn)
        chosen = replace(chosen, until=min(chosen.until, now) if chosen.until else now)
    events, aggregates = await outbox_dead.count(conn, chosen)
    sample = await outbox_dead.page(conn, chosen, _TOP_ID, SAMPLE)
    return Preview(chosen, events, aggregates, sample, await refusals(conn, chosen))


async def refusals(conn: Connection, chosen: Choice) -> Mapping[int, NotDead]:
    """Why some of the ids that are named are no dead letters; empty without any."""
    if chosen.ids is None:
        return {}
    dead = set(await outbox_dead.dead_among(conn, chosen.ids))
    alive = await outbox_dead.alive(conn, [it for it in chosen.ids if it not in dead])
    return {number: _why(number, alive) for number in chosen.ids if number not in dead}


def _why(number: int, alive: Mapping[int, tuple[str, datetime | None]]) -> NotDead:
    if number not in alive:
        return NotDead(
            f"event {number} is not held: it was published or discarded, or never failed: look with `marty dlq list`",
            held=False,
        )
    state, due = alive[number]
    when = f"due at {due:%Y-%m-%d %H:%M:%S} UTC" if due else "behind another one of its aggregate"
    return NotDead(f"event {number} is not dead: it is {state}, {when}: nothing is to be done", held=True)


async def carry_out(
    conn: Connection, verb: str, chosen: Choice, person: Person, progress: Callable[[int], None] | None = None
) -> Done:
    """Redrive or discard, in the order of ids; `chosen` as `preview` gives it. `progress` is told the sum so far."""
    affected, above = 0, 0
    done: set[int] = set()
    while True:
        async with conn.transaction():
            picked = await outbox_dead_verb.pick(conn, chosen, above, BATCH)
            if not picked:
                break
            moved = await _STEPS[verb](conn, picked)
            if moved:
                what = {"chosen": chosen.form(), "ids": moved}
                await outbox_dead_verb.audit(conn, verb, person.who, person.why, what, len(moved))
        affected, above = affected + len(moved), picked[-1]
        if chosen.ids is not None:
            done.update(moved)
        if progress is not None:
            progress(affected)
    if chosen.ids is not None:
        chosen = replace(chosen, ids=[number for number in chosen.ids if number not in done])
    # Asked for behind the work: who came first while we waited for the lock has made them something else than dead.
    return Done(affected, await refusals(conn, chosen))


@dataclass(frozen=True, slots=True)
class Edited:
    """One dead letter before and after."""

    before: Content
    after: Content

    def form(self) -> Mapping[str, Any]:
        """As JSON values."""
        return {"before": content_form(self.before), "after": content_form(self.after)}


async def edit(conn: Connection, number: int, change: Edit, person: Person, *, dry_run: bool) -> Edited:
    """Change one dead letter; its former content is kept in the audit. Raises InvalidDefinition and NotDead."""
    async with conn.transaction():
        it = await (outbox_dead.show if dry_run else outbox_dead_verb.locked)(conn, number)
        if it is None or it.state != "Dead":
            raise _why(number, {} if it is None else {number: (it.state, it.due_at)})
        before = Content(it.payload, it.own_headers)
        after = edited(before, change)
        if not dry_run:
            await outbox_dead_verb.edit(conn, number, after)
            what = {"id": number, "before": content_form(before)}
            await outbox_dead_verb.audit(conn, "edit", person.who, person.why, what, 1)
    return Edited(before, after)


async def shown(conn: Connection, number: int) -> tuple[Whole, int, int | None]:
    """A held event, how many wait behind it and the first one's id. Raises NotDead when it is not held."""
    it = await outbox_dead.show(conn, number)
    if it is None:
        raise _why(number, {})
    return it, *await outbox_dead.behind(conn, it)


async def reset_cursor(conn: Connection, person: Person, *, republish: bool, dry_run: bool) -> outbox_reset.Retained:
    """After a restore: publish every retained event again, or none. Raises InvalidDefinition when nothing is wrong."""
    async with conn.transaction():
        if not await outbox_reset.restored(conn):
            raise InvalidDefinition(
                "cursor",
                "was stored by this very Postgres cluster, so it stands where it should",
                "reset it only when the OutboxRelay says OutboxRestored",
            )
        found = await outbox_reset.retained(conn)
        if not dry_run:
            await outbox_reset.reset(conn, republish=republish)
            what = {"how": "republish" if republish else "skip", "held": found.held}
            await outbox_dead_verb.audit(conn, "reset-cursor", person.who, person.why, what, found.events)
    return found


def content_form(it: Content) -> Mapping[str, Any]:
    """As JSON values."""
    return {**payload_form(it.payload), "headers": it.headers}


def refused_form(refused: Mapping[int, NotDead]) -> Sequence[Mapping[str, Any]]:
    """As JSON values."""
    return [{"id": number, "reason": str(reason)} for number, reason in refused.items()]
