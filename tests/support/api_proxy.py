"""A proxy before the API server that answers with errors, drops, delays or stalls as a test asks for.

It speaks plain HTTP on loopback and carries the token of the test's own API server.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from tests.support.cluster import Cluster
from tests.support.waiting import eventually

_HOP: Final = frozenset(
    {"host", "connection", "transfer-encoding", "content-length", "accept-encoding", "content-encoding"}
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a test sees it; `number` counts all, `write` those that change something, from 1."""

    method: str
    path: str
    watch: bool
    number: int
    write: int


@dataclass(frozen=True, slots=True)
class Fault:
    """`status` 0 drops the connection; `delay` comes first. `lost_answer`: the call is made, its answer is not given."""

    status: int = 0
    delay: float = 0.0
    lost_answer: bool = False


Decide = Callable[[Call], Fault | None]


@dataclass(slots=True)
class ApiProxy:
    """`faults` decides per request; `after` is told of each request that the API server has answered."""

    url: str = ""
    faults: Decide = lambda _: None
    after: Callable[[Call], None] = lambda _: None
    #: While cleared, watches deliver no byte, and their connections stay open.
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[Call] = field(default_factory=list)
    _session: aiohttp.ClientSession | None = None
    _upstream: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = self._record(request)
        fault = self.faults(call)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            if fault.status:
                return _error(fault.status)
            if not fault.delay and not fault.lost_answer:
                return _drop(request)
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, data=await request.read() or None
        ) as answer:
            if call.watch and answer.status == 200:
                return await self._stream(request, answer)
            body = await answer.read()
        self.after(call)
        if fault is not None and fault.lost_answer:
            return _drop(request)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        return web.Response(status=answer.status, body=body, headers=kept)

    def _record(self, request: web.Request) -> Call:
        writes = sum(1 for call in self.calls if call.method != "GET")
        changes = request.method != "GET"
        call = Call(
            request.method, request.path, "watch" in request.query, len(self.calls) + 1, writes + 1 if changes else 0
        )
        self.calls.append(call)
        return call

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await self.flowing.wait()
            await response.write(chunk)
        return response


def _error(status: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Injected", "code": status}
    return web.json_response(body, status=status, headers={"Retry-After": "1"} if status == 429 else {})


def _drop(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()


@asynccontextmanager
async def api_proxy(cluster: Cluster, directory: Path) -> AsyncIterator[ApiProxy]:
    """Writes `directory/kubeconfig`, which points to the proxy."""
    sockets: list[socket.socket] = []

    def opened(address: aiohttp.AddrInfoType) -> socket.socket:
        sockets.append(socket.socket(*address[:3]))
        sockets[-1].setblocking(False)
        return sockets[-1]

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=False, limit=0, socket_factory=opened),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Authorization": f"Bearer {cluster.api.token}"},
    ) as session:
        proxy = ApiProxy(_session=session, _upstream=f"https://{cluster.api.host}")
        proxy.flowing.set()
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        (directory / "kubeconfig").write_text(_kubeconfig(proxy.url))
        try:
            yield proxy
        finally:
            proxy.flowing.set()
            await runner.cleanup()
    # A request that was cut off, as those of a killed operator are, ends its TLS with the server after the session has gone.
    await eventually(lambda: asyncio.sleep(0, open_of(sockets)), lambda left: not left, seconds=60)


def open_of(sockets: list[socket.socket]) -> list[socket.socket]:
    return [found for found in sockets if found.fileno() >= 0]


def _kubeconfig(url: str) -> str:
    named = {"name": "proxy"}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [named | {"cluster": {"server": url}}],
            "users": [named | {"user": {}}],
            "contexts": [named | {"context": {"cluster": "proxy", "user": "proxy"}}],
        }
    )
