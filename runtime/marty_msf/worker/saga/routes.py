"""The saga's own HTTP surface: start an instance, look at one. The shell puts the bearer token in front."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web

from marty_msf.core.errors import DatabaseUnavailable, InvalidDefinition
from marty_msf.core.saga.definition import load
from marty_msf.core.saga.timeline import timeline
from marty_msf.store import saga_instance
from marty_msf.store.database import translate
from marty_msf.worker.saga.engine import Engine

_FIELDS: Final = frozenset({"business_key", "context"})


class Routes:
    """POST /v1/sagas and GET /v1/sagas/{id}."""

    def __init__(self, pool: asyncpg.Pool, resource: str) -> None:
        self._pool = pool
        self._resource = resource
        #: Set while the role runs.
        self.engine: Engine | None = None

    def definitions(self) -> Sequence[web.RouteDef]:
        """For the shell."""
        return [web.post("/v1/sagas", self.start), web.get("/v1/sagas/{id}", self.get)]

    async def start(self, request: web.Request) -> web.Response:
        """201 with the new instance's id, 200 with the existing one's; answered once it is durable."""
        try:
            body = orjson.loads(await request.read())
        except web.RequestPayloadError:
            return _error(400, "body: is not encoded as its Content-Encoding says: send plain JSON")
        except orjson.JSONDecodeError as error:
            return _error(400, f"body: is no JSON ({error}): send a JSON object")
        problem = _problem(body)
        if problem:
            return _error(400, problem)
        if self.engine is None:
            return _error(503, "this worker takes no new instances now: ask again", {"Retry-After": "1"})
        try:
            receipt = await self.engine.start(body["business_key"], body.get("context", {}))
        except InvalidDefinition as error:
            return _error(400, str(error))
        except DatabaseUnavailable as error:
            return _error(503, str(error), {"Retry-After": "1"})
        answer = {"saga_id": receipt.saga_id, "created": receipt.created}
        return _json(201 if receipt.created else 200, answer)

    async def get(self, request: web.Request) -> web.Response:
        """The instance with its context and everything that happened to it."""
        try:
            instance = UUID(request.match_info["id"])
        except ValueError:
            return _error(400, f"id: {request.match_info['id']!r} is no instance's id: give the saga_id of a start")
        try:
            with translate():
                async with self._pool.acquire() as conn:
                    shown = await saga_instance.get(conn, self._resource, instance)
        except DatabaseUnavailable as error:
            return _error(503, str(error), {"Retry-After": "1"})
        if shown is None:
            return _error(404, f"{self._resource} has no instance {instance}: look at the other sagas")
        state, lines = timeline(load(shown.definition), orjson.loads(shown.context), shown.entries)
        return _json(
            200,
            {
                "saga_id": str(shown.id),
                "business_key": shown.business_key,
                "state": shown.state,
                "error": shown.error,
                "started_at": shown.started_at.isoformat(),
                "ended_at": shown.ended_at.isoformat() if shown.ended_at else None,
                "revision": shown.revision,
                "context": state.context,
                "timeline": lines,
            },
        )


def _problem(body: Any) -> str | None:
    """What is wrong with a start's body, or None."""
    if not isinstance(body, dict):
        return f"body: is a {type(body).__name__}: send a JSON object"
    if unknown := sorted(body.keys() - _FIELDS):
        return f"{unknown[0]}: is unknown: send business_key and context"
    if not isinstance(body.get("business_key"), str):
        return (
            "business_key: is missing or no text: send the name of the business case, which makes the start idempotent"
        )
    if not isinstance(body.get("context", {}), dict):
        return "context: is no object: send a JSON object"
    return None


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps({"error": message}), content_type="application/json", headers=headers
    )
