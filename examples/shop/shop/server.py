"""The HTTP shell that the three services share: routes, errors as JSON, health, and an orderly start and stop."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from aiohttp import web

from shop import saga
from shop.database import connect, create_tables
from shop.saga import Answer, BadCall, Direction, Effect
from shop.settings import Settings

BODY_LIMIT: Final = 64 * 1024

log = logging.getLogger("shop.server")


class Refused(Exception):
    """A request that is answered with a 4xx; nothing was changed."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


Handler = Callable[[asyncpg.Pool, web.Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Service:
    """What one service adds to the shell."""

    #: Its schema in the database and the `CREATE … IF NOT EXISTS` statements for it.
    schema: str
    tables: str
    #: Saga actions: path to what it does.
    actions: Mapping[str, tuple[Direction, Effect]]
    #: Its own API: (method, path) to handler.
    routes: Mapping[tuple[str, str], Handler]


def json_answer(answer: Answer) -> web.Response:
    return web.json_response(dict(answer.body), status=answer.status)


@web.middleware
async def errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """4xx with a word for programs and a sentence for people; an unexpected error is logged and becomes a bare 500."""
    try:
        return await handler(request)
    except Refused as refused:
        return json_answer(Answer(refused.status, {"error": refused.error, "message": str(refused)}))
    except BadCall as bad:
        return json_answer(Answer(400, {"error": "bad_call", "message": str(bad)}))
    except web.HTTPException as error:
        return json_answer(Answer(error.status, {"error": error.reason.lower().replace(" ", "_")}))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return json_answer(Answer(500, {"error": "internal", "message": "try again later"}))


async def read_object(request: web.Request) -> Mapping[str, Any]:
    """The body as a JSON object. Raises Refused."""
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise Refused(400, "no_json", f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "no_object", "the body must be a JSON object")
    return body


POOL: Final = web.AppKey("pool", asyncpg.Pool)


def application(service: Service, settings: Settings) -> web.Application:
    """The service as an aiohttp application; its pool opens at start-up and closes at clean-up."""

    async def database(app: web.Application) -> AsyncIterator[None]:
        pool = await connect(settings, service.schema)
        await create_tables(pool, service.tables)
        app[POOL] = pool
        yield
        await pool.close()

    app = web.Application(middlewares=[errors_as_json], client_max_size=BODY_LIMIT)
    app.cleanup_ctx.append(database)
    app.router.add_get("/healthz", _health)
    app.router.add_get("/readyz", _ready)
    for path, (direction, effect) in service.actions.items():
        app.router.add_post(path, _action(direction, effect))
    for (method, path), handler in service.routes.items():
        app.router.add_route(method, path, _route(handler))
    return app


def _action(direction: Direction, effect: Effect) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        call = saga.parse(request.headers.get("Idempotency-Key"), await request.read())
        if call.direction is not direction:
            raise BadCall(f"{request.path} is a {direction}, the Idempotency-Key says {call.direction}")
        return json_answer(await saga.answer_once(request.app[POOL], call, effect))

    return handle


def _route(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return json_answer(await handler(request.app[POOL], request))

    return handle


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _ready(request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(1):
            await request.app[POOL].fetchval("SELECT 1")
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # the server ended the connection while the driver was writing to it
    ) as error:
        return json_answer(Answer(503, {"error": "database", "message": str(error)}))
    return web.Response(text="ok\n")


def serve(service: Service, settings: Settings) -> None:
    """Serve until SIGTERM; requests that are under way are finished first."""
    web.run_app(
        application(service, settings),
        host=settings.host,
        port=settings.port,
        access_log=None,
        shutdown_timeout=20,
        handle_signals=True,
        print=log.info,
    )
