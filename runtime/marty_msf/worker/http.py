"""The worker's HTTP surface: probes and metrics for everybody, status and the role's own routes behind the bearer token."""

import asyncio
import hmac
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, generate_latest

from marty_msf.core.errors import MartyError
from marty_msf.core.worker_status import WorkerStatus
from marty_msf.worker.board import Board
from marty_msf.worker.role import Role

logger = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
#: Well below what the operator waits for the whole answer: problems are told although the database says nothing.
TOTALS_SECONDS: Final = 1
REQUEST_BYTES: Final = 1024 * 1024


class Surface:
    """What the handlers answer from."""

    def __init__(self, role: Role, board: Board, registry: CollectorRegistry, resource: str, revision: str) -> None:
        self._role = role
        self._board = board
        self._registry = registry
        self._resource = resource
        self._revision = revision

    async def healthz(self, _: web.Request) -> web.Response:
        """Alive: the event loop turns. Problems of Postgres or Kafka are no reason to restart the container."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Ready, or 503 with the problems."""
        problems = [problem.model_dump(mode="json", by_alias=True) for problem in self._board.current()]
        return web.json_response({"problems": problems}, status=503 if self._board.blocked else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text."""
        return web.Response(
            body=generate_latest(self._registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def status(self, _: web.Request) -> web.Response:
        """WorkerStatus; without totals when the database does not give them in time."""
        totals = None
        try:
            async with asyncio.timeout(TOTALS_SECONDS):
                totals = await self._role.totals()
        except (MartyError, TimeoutError) as error:
            logger.debug("no totals: %s", error)
        except Exception:
            # An answer without totals still tells the problems; HTTP 500 would hide them from the operator.
            logger.exception("no totals: unexpected error")
        status = WorkerStatus(
            resource=self._resource,
            revision=self._revision,
            ready=not self._board.blocked,
            problems=self._board.current(),
            totals=totals,
            local=self._role.local(),
        )
        return web.Response(body=status.model_dump_json(by_alias=True).encode(), content_type="application/json")


def bearer(token: str) -> Middleware:
    """Refuse requests without the token, but for OPEN_PATHS."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if request.path not in OPEN_PATHS and not hmac.compare_digest(given, expected):
            return web.json_response(
                {"error": "give the resource's token as `Authorization: Bearer …`"},
                status=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    return check


def application(surface: Surface, role: Role, token: str) -> web.Application:
    """The whole surface."""
    app = web.Application(middlewares=[bearer(token)], client_max_size=REQUEST_BYTES)
    app.add_routes(
        [
            web.get("/healthz", surface.healthz),
            web.get("/readyz", surface.readyz),
            web.get("/metrics", surface.metrics),
            web.get("/status", surface.status),
            *role.routes(),
        ]
    )
    return app
