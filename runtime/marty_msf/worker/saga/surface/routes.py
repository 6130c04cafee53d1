"""The saga's own HTTP surface: start instances, look at them, help them. The shell puts the bearer token in front."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import asyncpg
from aiohttp import web
from asyncpg import Connection

from marty_msf.core.errors import DatabaseUnavailable, InvalidDefinition
from marty_msf.core.saga.ended import gone
from marty_msf.core.saga.selection import Selection, selection, sought
from marty_msf.core.saga.short_ids import span
from marty_msf.core.trace import TRACEPARENT
from marty_msf.store import saga_history, saga_lock
from marty_msf.store.database import translate
from marty_msf.worker.answers import WHO, answer, failure, json_object, parameters, whole_number
from marty_msf.worker.saga import tracing
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.engine import Engine
from marty_msf.worker.saga.surface import asking, listing
from marty_msf.worker.saga.surface.showing import show

PAGE_LIMIT: Final = 200
#: Well below what clients and proxies wait for an answer.
WAIT_LIMIT_SECONDS: Final = 30
_FIELDS: Final = frozenset({"business_key", "context"})
_FILTERS: Final = frozenset({"state", "step", "since", "before", "key", "error", "revision"})
_QUERY: Final = _FILTERS | {"limit", "after", "stuck"}


class Routes:
    """POST and GET /v1/sagas, GET /v1/sagas/{id}, POST /v1/sagas/{id}/{verb}, GET /v1/locks."""

    def __init__(self, pool: asyncpg.Pool, resource: str) -> None:
        self._pool = pool
        self._resource = resource
        #: Set while the role runs.
        self.engine: Engine | None = None

    def definitions(self) -> Sequence[web.RouteDef]:
        """For the shell."""
        return [
            web.post("/v1/sagas", self.start),
            web.get("/v1/sagas", self.list),
            web.get("/v1/sagas/{id}", self.get),
            web.get("/v1/locks", self.locks),
            web.post("/v1/sagas/{id}/{verb}", self.verb),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """201 with the new instance's id, 200 with the existing one's; answered once it is durable."""
        try:
            body = await json_object(request)
            _check_start(body)
            if self.engine is None:
                return failure(503, "this worker takes no new instances now: ask again", {"Retry-After": "1"})
            about = {"http.request.method": "POST", "http.route": "/v1/sagas", "marty.saga.resource": self._resource}
            traceparent = tracing.instant("POST /v1/sagas", "SERVER", request.headers.get(TRACEPARENT), about)
            receipt = await self.engine.start(body["business_key"], body.get("context", {}), traceparent)
        except InvalidDefinition as error:
            return failure(400, str(error))
        except DatabaseUnavailable as error:
            return failure(503, str(error), {"Retry-After": "1"})
        return answer(201 if receipt.created else 200, {"saga_id": receipt.saga_id, "created": receipt.created})

    async def list(self, request: web.Request) -> web.Response:
        """The instances that the query's filters choose, the newest first; `next` goes into `after` for the next page."""
        try:
            chosen, limit = _asked(parameters(request))
            with translate():
                async with self._pool.acquire() as conn:
                    page = await listing.page(conn, [self._resource], chosen, limit)
        except InvalidDefinition as error:
            return failure(400, str(error))
        except DatabaseUnavailable as error:
            return failure(503, str(error), {"Retry-After": "1"})
        next_id = str(page.next) if page.next else None
        return answer(200, {"instances": [row.form() for row in page.rows], "next": next_id})

    async def get(self, request: web.Request) -> web.Response:
        """The instance with its context and everything that happened to it."""
        try:
            instance = _instance(request)
            with translate():
                async with self._pool.acquire() as conn:
                    shown = await show(conn, self._resource, instance)
                    if shown is None:
                        return await self._missing(conn, instance)
        except InvalidDefinition as error:
            return failure(400, str(error))
        except DatabaseUnavailable as error:
            return failure(503, str(error), {"Retry-After": "1"})
        return answer(200, {**shown.form(), "timeline": [line.form() for line in shown.lines]})

    async def locks(self, request: web.Request) -> web.Response:
        """Semantic locks that instances of this saga hold or wait for, the longest held first; `?key=` only that one."""
        if unknown := sorted(request.query.keys() - {"key"}):
            return failure(400, f"{unknown[0]}: is unknown: give key")
        try:
            key = sought("key", parameters(request).get("key"))
            with translate():
                async with self._pool.acquire() as conn:
                    rows = await saga_lock.listed(conn, [self._resource], key, PAGE_LIMIT)
        except InvalidDefinition as error:
            return failure(400, str(error))
        except DatabaseUnavailable as error:
            return failure(503, str(error), {"Retry-After": "1"})
        return answer(200, {"locks": [row.form() for row in rows]})

    async def verb(self, request: web.Request) -> web.Response:
        """A person's verb: 200 done, 409 not possible (both with the reason), 202 nobody answered within `wait` seconds.

        With `dryRun=true` 200 and what would be done.
        """
        try:
            instance = _instance(request)
            wished, wait_seconds, dry_run = _wish(request, await json_object(request))
            with translate():
                async with self._pool.acquire() as conn:
                    seen = await asking.preview(conn, self._resource, instance, wished)
                    if seen is None:
                        return await self._missing(conn, instance)
                    if dry_run:
                        return answer(200 if seen.refusal is None else 409, seen.form())
                    numbers = await asking.ask(conn, [instance], wished)
                # Not on a connection of its own: many who wait must not keep the engine from its work.
                (found,) = await asking.answers(self._pool, numbers, wait_seconds)
        except InvalidDefinition as error:
            return failure(400, str(error))
        except DatabaseUnavailable as error:
            return failure(503, str(error), {"Retry-After": "1"})
        status = {None: 202, True: 200, False: 409}[found.done]
        form = {"saga_id": str(instance), "verb": found.verb, "by": found.by, "done": found.done}
        return answer(status, {**form, "answer": found.answer})

    async def _missing(self, conn: Connection, instance: UUID) -> web.Response:
        hours = await saga_history.retention_hours(conn, self._resource)
        why = gone(instance, hours, now_ms()) or "look at the other sagas"
        return failure(404, f"{self._resource} has no instance {instance}: {why}")


def _asked(query: Mapping[str, str]) -> tuple[Selection, int]:
    """Filters and size of the page. Raises InvalidDefinition."""
    if unknown := sorted(query.keys() - _QUERY):
        raise InvalidDefinition(unknown[0], "is unknown", f"give some of {', '.join(sorted(_QUERY))}")
    limit = whole_number("limit", query.get("limit", str(PAGE_LIMIT)), PAGE_LIMIT)
    filters = {name: query[name] for name in _FILTERS & query.keys()}
    stuck = query.get("stuck", "false")
    if stuck not in {"true", "false"}:
        raise InvalidDefinition("stuck", f"{stuck!r} is neither true nor false", "correct it or leave it out")
    chosen = selection(**filters, stuck=stuck == "true", now_ms=now_ms())
    if "after" in query:
        below = span(query["after"])[0]
        chosen = replace(chosen, below_id=min(below, chosen.below_id or below))
    return chosen, limit


def _instance(request: web.Request) -> UUID:
    """The id of the path. Raises InvalidDefinition."""
    text = request.match_info["id"]
    try:
        return UUID(text)
    except ValueError:
        raise InvalidDefinition("id", f"{text!r} is no instance's id", "give the saga_id of a start") from None


def _wish(request: web.Request, arguments: Mapping[str, Any]) -> tuple[asking.Request, float, bool]:
    """The verb, how long to wait for its answer, and whether only to look. Raises InvalidDefinition."""
    query = parameters(request)
    if unknown := sorted(query.keys() - {"wait", "dryRun"}):
        raise InvalidDefinition(unknown[0], "is unknown", "give wait or dryRun")
    wait_seconds = whole_number("wait", query.get("wait", "10"), WAIT_LIMIT_SECONDS, 0, remedy="give seconds")
    dry_run = query.get("dryRun", "false")
    if dry_run not in {"true", "false"}:
        raise InvalidDefinition("dryRun", f"{dry_run!r} is neither true nor false", "correct it or leave it out")
    by = request.headers.get(WHO, f"http {request.remote or 'unknown'}")
    return asking.Request(request.match_info["verb"], arguments, by), wait_seconds, dry_run == "true"


def _check_start(body: Mapping[str, Any]) -> None:
    """Raise InvalidDefinition for what a start's body has wrong."""
    if unknown := sorted(body.keys() - _FIELDS):
        raise InvalidDefinition(unknown[0], "is unknown", "send business_key and context")
    if not isinstance(body.get("business_key"), str):
        raise InvalidDefinition(
            "business_key",
            "is missing or no text",
            "send the name of the business case, which makes the start idempotent",
        )
    if not isinstance(body.get("context", {}), dict):
        raise InvalidDefinition("context", "is no object", "send a JSON object")
