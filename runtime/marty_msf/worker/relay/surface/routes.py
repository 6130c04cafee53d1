"""The relay's own HTTP surface: dead letters, and the position after a restore. The shell puts the bearer token in front."""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import asyncpg
from aiohttp import web

from marty_msf.core.errors import DatabaseUnavailable, InvalidDefinition, NotDead
from marty_msf.core.outbox.dead_letters import Choice, Edit, Person, choice, event_id
from marty_msf.store import outbox_dead
from marty_msf.store.database import translate
from marty_msf.worker.answers import WHO, answer, failure, json_object, parameters, whole_number
from marty_msf.worker.relay.surface import verbs
from marty_msf.worker.relay.surface.forms import group_form, letter_form, whole_form

PAGE_LIMIT: Final = 200
GROUPS_LIMIT: Final = 50
_FILTERS: Final = frozenset({"cause", "topic", "event_type", "aggregate_id", "since", "until"})
_CHOICE: Final = _FILTERS | {"ids", "all"}
_EDIT: Final = frozenset({"payload", "payload_base64", "headers"})
_TOP_ID: Final = (1 << 63) - 1

_Handler = Callable[[web.Request], Awaitable[web.Response]]


class Routes:
    """GET /v1/dead-letters and /{id}, POST …/redrive and …/discard, PATCH /{id}, POST /v1/cursor/reset."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    def definitions(self) -> Sequence[web.RouteDef]:
        """For the shell."""
        return [
            web.get("/v1/dead-letters", _told(self.list)),
            web.get("/v1/dead-letters/{id}", _told(self.get)),
            web.post("/v1/dead-letters/redrive", _told(self.redrive)),
            web.post("/v1/dead-letters/discard", _told(self.discard)),
            web.patch("/v1/dead-letters/{id}", _told(self.edit)),
            web.post("/v1/cursor/reset", _told(self.reset)),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Causes and the chosen dead letters, the newest first; `next` goes into `after` for the next page."""
        query = parameters(request)
        _only(query, _FILTERS | {"limit", "after"})
        limit = whole_number("limit", query.get("limit", str(PAGE_LIMIT)), PAGE_LIMIT)
        below = event_id(query["after"]) if "after" in query else _TOP_ID
        chosen = choice(**{name: query[name] for name in _FILTERS & query.keys()}, now_ms=_now_ms())
        async with self._pool.acquire() as conn:
            groups = await outbox_dead.groups(conn, GROUPS_LIMIT)
            found = await outbox_dead.page(conn, chosen, below, limit + 1)
        page = found[:limit]
        form = {"groups": [group_form(it) for it in groups], "dead_letters": [letter_form(it) for it in page]}
        return answer(200, {**form, "next": page[-1].id if len(found) > limit else None})

    async def get(self, request: web.Request) -> web.Response:
        """One held event with everything known of it."""
        _only(parameters(request), frozenset())
        async with self._pool.acquire() as conn:
            return answer(200, whole_form(*await verbs.shown(conn, event_id(request.match_info["id"]))))

    async def redrive(self, request: web.Request) -> web.Response:
        """Let dead letters be tried again; with `dryRun=true` say which."""
        return await self._bulk(request, verbs.REDRIVE)

    async def discard(self, request: web.Request) -> web.Response:
        """Remove dead letters for good; with `dryRun=true` say which."""
        return await self._bulk(request, verbs.DISCARD)

    async def _bulk(self, request: web.Request, verb: str) -> web.Response:
        body = await json_object(request)
        chosen, person, dry_run = _chosen(body), _person(request, body), _dry_run(request)
        async with self._pool.acquire() as conn:
            seen = await verbs.preview(conn, chosen)
            if not seen.events:
                held = any(it.held for it in seen.refused.values())
                why = "; ".join(map(str, seen.refused.values())) or "no dead letter fits: look at GET /v1/dead-letters"
                return failure(409 if held else 404, why)
            if dry_run:
                return answer(200, {"verb": verb, "dry_run": True, **seen.form()})
            done = await verbs.carry_out(conn, verb, seen.chosen, person)
        form = {"verb": verb, "by": person.who, "affected": done.affected}
        return answer(200, {**form, "refused": verbs.refused_form(done.refused)})

    async def edit(self, request: web.Request) -> web.Response:
        """Change payload or headers of one; with `dryRun=true` say what it would be."""
        number, body = event_id(request.match_info["id"]), await json_object(request)
        change, person, dry_run = _change(body), _person(request, body), _dry_run(request)
        async with self._pool.acquire() as conn:
            done = await verbs.edit(conn, number, change, person, dry_run=dry_run)
        return answer(200, {"id": number, "dry_run": dry_run, **done.form()})

    async def reset(self, request: web.Request) -> web.Response:
        """After a restore: publish every retained event again, or none; with `dryRun=true` say how many."""
        body = await json_object(request)
        _only(body, {"how", "why"})
        if body.get("how") not in {"republish", "skip"}:
            raise InvalidDefinition("how", f"{body.get('how')!r} is neither republish nor skip", "give one of the two")
        person, dry_run, how = _person(request, body), _dry_run(request), body["how"]
        async with self._pool.acquire() as conn:
            found = await verbs.reset_cursor(conn, person, republish=how == "republish", dry_run=dry_run)
        return answer(200, {"how": how, "dry_run": dry_run, "events": found.events, "held": found.held})


def _told(handler: _Handler) -> _Handler:
    """The handler with its errors as answers."""

    async def told(request: web.Request) -> web.Response:
        try:
            with translate():
                return await handler(request)
        except InvalidDefinition as error:
            return failure(400, str(error))
        except NotDead as error:
            return failure(409 if error.held else 404, str(error))
        except DatabaseUnavailable as error:
            return failure(503, str(error), {"Retry-After": "1"})

    return told


def _chosen(body: Mapping[str, Any]) -> Choice:
    """What a bulk verb is about: ids, filters, or `all`. Raises InvalidDefinition."""
    _only(body, _CHOICE | {"why"})
    filters = {name: body[name] for name in _FILTERS & body.keys()}
    for name, value in filters.items():
        if not isinstance(value, str):
            raise InvalidDefinition(name, f"{value!r} is no text", "give text, or leave it out")
    ids, everything = body.get("ids"), body.get("all", False)
    if ids is not None and not isinstance(ids, list):
        raise InvalidDefinition("ids", f"{ids!r} is no array", "give an array of ids")
    if everything not in (True, False) or [ids is not None, bool(filters), bool(everything)].count(True) != 1:
        raise InvalidDefinition("body", "does not say which dead letters", 'give ids, filters, or {"all": true}')
    return choice(ids=ids, **filters, now_ms=_now_ms())


def _change(body: Mapping[str, Any]) -> Edit:
    """Raises InvalidDefinition."""
    _only(body, _EDIT | {"why"})
    headers = body.get("headers")
    if headers is not None and not isinstance(headers, dict):
        raise InvalidDefinition("headers", f"is a {type(headers).__name__}", "give an object of names and texts")
    if "payload" in body and "payload_base64" in body:
        raise InvalidDefinition("payload", "is given twice", "give payload or payload_base64")
    return Edit(_payload(body), headers)


def _payload(body: Mapping[str, Any]) -> bytes | None:
    name = "payload_base64" if "payload_base64" in body else "payload"
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidDefinition(name, f"is a {type(value).__name__}", "give text: JSON is text here too")
    try:
        return value.encode() if name == "payload" else base64.b64decode(value, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidDefinition(name, f"cannot be read ({error})", "correct it") from error


def _person(request: web.Request, body: Mapping[str, Any]) -> Person:
    why = body.get("why", "")
    if not isinstance(why, str):
        raise InvalidDefinition("why", f"is a {type(why).__name__}", "give text")
    return Person(request.headers.get(WHO, f"http {request.remote or 'unknown'}"), why)


def _dry_run(request: web.Request) -> bool:
    query = parameters(request)
    _only(query, {"dryRun"})
    text = query.get("dryRun", "false")
    if text not in {"true", "false"}:
        raise InvalidDefinition("dryRun", f"{text!r} is neither true nor false", "correct it or leave it out")
    return text == "true"


def _only(given: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    if unknown := sorted(given.keys() - known):
        remedy = f"give some of {', '.join(sorted(known))}" if known else "leave it out"
        raise InvalidDefinition(unknown[0], "is unknown", remedy)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
