"""Asking for verbs and waiting for the answers: shared by the command line and the HTTP surface."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from asyncpg import Connection

from marty_msf.core.errors import InvalidDefinition, MartyError
from marty_msf.core.saga import asked, verbs
from marty_msf.core.saga.definition import Definition, load
from marty_msf.core.saga.history import whereabouts
from marty_msf.core.saga.instance import Instance, State, members_problem
from marty_msf.core.saga.journal import fold
from marty_msf.core.saga.migration import moved
from marty_msf.store import saga_instance, saga_verb
from marty_msf.worker.saga.clock import now_ms

#: Between two looks for an answer, growing to the second.
_FIRST_WAIT_SECONDS: Final = 0.02
_LAST_WAIT_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """A verb, checked, and who asks for it."""

    verb: str
    arguments: Mapping[str, Any]
    by: str

    def __post_init__(self) -> None:
        """Raises InvalidDefinition."""
        asked.check(self.verb, self.arguments, self.by)
        # No instance could obey it, and what nests deeper than the encoder goes could not even be kept for the audit.
        if problem := members_problem(self.arguments.get("patch", {})):
            raise InvalidDefinition("patch", *problem.split(": ", 1))


@dataclass(frozen=True, slots=True)
class Preview:
    """What a verb would do to one instance as it stands now."""

    id: UUID
    resource: str
    business_key: str
    #: Why not, with the remedy; None when it is possible.
    refusal: str | None
    #: What it would do; empty when it is not possible.
    effect: str
    #: Parked or paused: nothing of it begins by itself.
    rests: bool

    def form(self) -> Mapping[str, Any]:
        """As JSON values."""
        return {
            "saga_id": str(self.id),
            "saga": self.resource,
            "business_key": self.business_key,
            "possible": self.refusal is None,
            "text": self.refusal or self.effect,
        }


async def preview(conn: Connection, resource: str, instance: UUID, request: Request) -> Preview | None:
    """Look without changing anything; None when there is no such instance."""
    shown = await saga_instance.get(conn, resource, instance)
    if shown is None:
        return None
    rests = False
    try:
        definition = load(shown.definition)
        now = fold(definition, orjson.loads(shown.context), shown.entries).instance
        rests = now.paused or now.state is State.PARKED
        if request.verb == asked.MIGRATE:
            refusal, effect = None, await _migration(conn, resource, definition, now, request.arguments)
        else:
            event = asked.event(request.verb, request.arguments, request.by, None, definition)
            refusal = verbs.refusal(definition, now, event, now_ms())
            effect = "" if refusal else verbs.effect(definition, now, event, now_ms())
    except MartyError as error:
        refusal, effect = str(error), ""
    return Preview(instance, resource, shown.business_key, refusal, effect, rests)


async def _migration(
    conn: Connection, resource: str, old: Definition, now: Instance, arguments: Mapping[str, Any]
) -> str:
    """What moving the instance as it stands now would do. Raises InvalidDefinition."""
    if old.revision != arguments["from"]:
        raise InvalidDefinition("from", f"the instance follows revision {old.revision}", "name that one")
    stored = await saga_instance.definitions(conn, resource, [arguments["to"]])
    if not stored:
        raise InvalidDefinition("to", f"{resource} never had the revision {arguments['to']!r}", "look at its instances")
    new = load(stored[arguments["to"]])
    # Its calls end before it moves; taken for not happened, which is the least that is known of them.
    resting = replace(now, operations=tuple(replace(it, until_ms=it.until_ms or 0) for it in now.operations))
    paused = resting if now.state is State.PARKED else replace(resting, paused_ms=0)
    return f"{whereabouts(old, now)}; then {whereabouts(new, moved(old, new, paused, arguments.get('map', {})))}"


async def ask(conn: Connection, instances: Sequence[UUID], request: Request) -> Sequence[int]:
    """Make the request durable, for `answers`. The owners of the instances' lanes find it within a tenth of a second."""
    arguments = orjson.dumps(request.arguments)
    return list(await saga_verb.ask(conn, instances, request.verb, arguments, request.by))


async def answers(
    conn: Connection | asyncpg.Pool, numbers: Sequence[int], wait_seconds: float
) -> Sequence[saga_verb.Verb]:
    """The verbs as they are once all are answered, or after the wait. A pool lends a connection for each look only."""
    deadline, pause = time.monotonic() + wait_seconds, _FIRST_WAIT_SECONDS
    while True:
        found = await saga_verb.answers(conn, numbers)
        left = deadline - time.monotonic()
        if left <= 0 or all(it.done is not None for it in found):
            return found
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _LAST_WAIT_SECONDS)
