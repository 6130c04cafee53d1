"""The service behind the steps: another process with a ledger in Postgres, which fails and dawdles at random.

Run as `python -m dev.chaos.service PORT SEED TIMEOUT_MS` with LEDGER_URL in the environment. Whatever it does wrong, it does as real services do:
it answers with an error before or after the effect, breaks the connection, or answers when nobody listens any more.
"""

import asyncio
import hashlib
import json
import os
import random
import sys
from typing import Final

import asyncpg
from aiohttp import web

from dev.chaos import ledger
from dev.chaos.plan import FAILING, TIMING_OUT

#: Of the caller's patience: an answer that comes too late, and late enough for an undo to come before the effect.
DAWDLING: Final = 2.5
UNDO: Final = "undo-"


class Service:
    """POST /<step> and /undo-<step>; GET /open tells how many calls it has not ended yet."""

    def __init__(self, pool: asyncpg.Pool, source: random.Random, dawdle_seconds: float) -> None:
        self._pool = pool
        self._source = source
        self._dawdle_seconds = dawdle_seconds
        self._open = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self._open += 1
        try:
            return await self._handle(request)
        finally:
            self._open -= 1

    async def open(self, _: web.Request) -> web.Response:
        return web.Response(text=str(self._open))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        luck = self._source.random()
        if luck < FAILING:
            return await self._fail(request)
        if luck < FAILING + TIMING_OUT:
            return await self._dawdle(request)
        return await self._perform(request)

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        """With or without the effect; nobody can tell from outside, except for a 429."""
        match self._source.randrange(4):
            case 0:
                return web.Response(status=500)
            case 1:
                return web.Response(status=429)
            case 2:
                await self._perform(request)
                return web.Response(status=503)
            case _:
                await self._perform(request)
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()

    async def _dawdle(self, request: web.Request) -> web.StreamResponse:
        """The effect at once, long after the caller gave up, or never."""
        match self._source.randrange(3):
            case 0:
                await self._perform(request)
                await asyncio.sleep(self._dawdle_seconds)
                return web.Response(status=500)
            case 1:
                body = await request.read()
                await asyncio.sleep(self._dawdle_seconds)
                return await self._perform(request, body)
            case _:
                await asyncio.sleep(self._dawdle_seconds)
                return web.Response(status=500)

    async def _perform(self, request: web.Request, body: bytes | None = None) -> web.StreamResponse:
        body = body if body is not None else await request.read()
        call = json.loads(body)
        action = request.match_info["action"]
        step = action.removeprefix(UNDO)
        undo = action != step
        refuse = not undo and call["context"]["refused_by"] == step
        digest = hashlib.sha256(body).digest()
        key = request.headers["Idempotency-Key"]
        try:
            status = await self._pool.fetchval(ledger.PERFORM, key, call["saga_id"], step, undo, refuse, digest)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            # Its database is away: perhaps it was done.
            return web.Response(status=503)
        return web.json_response({} if undo else {step: f"{step}-{call['context']['order']}"}, status=status)


async def main(port: int, seed: int, timeout_ms: int, url: str) -> None:
    pool = await asyncpg.create_pool(url, min_size=1, max_size=10, command_timeout=10)
    service = Service(pool, random.Random(seed), timeout_ms / 1000 * DAWDLING)
    app = web.Application()
    app.add_routes([web.get("/open", service.open), web.post("/{action}", service.handle)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), os.environ["LEDGER_URL"]))
