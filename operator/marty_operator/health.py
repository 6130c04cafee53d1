"""Tells the kubelet and Prometheus how the operator itself is: /healthz, /readyz and /metrics.

/healthz asks whether work gets done, not whether a socket answers: a process that watches nothing and reconciles nothing
must be restarted.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from marty_operator import metrics

#: A pass is bounded by its calls' time-outs; one that is older than this will never end.
STUCK_SECONDS: Final = 180.0
#: A watch that owes an edit for so long is dead, whatever its connection says.
BLIND_SECONDS: Final = 90.0
LAG_SECONDS: Final = 10.0
LAG_PERIOD_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """What health is judged by, in seconds."""

    stuck: float
    blind: float
    loop_lag: float
    ready: bool
    depth: int


def complaints(vitals: Vitals) -> list[str]:
    """Why the process should be restarted; empty when it is well."""
    found = []
    if vitals.stuck > STUCK_SECONDS:
        found.append(f"a resource waits for its pass since {vitals.stuck:.0f} s")
    if vitals.blind > BLIND_SECONDS:
        found.append(f"the watches owe an edit since {vitals.blind:.0f} s")
    if vitals.loop_lag > LAG_SECONDS:
        found.append(f"the event loop is {vitals.loop_lag:.0f} s late")
    return found


class LoopLag:
    """Measures how late the event loop wakes a sleeper."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            begun = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LAG_PERIOD_SECONDS)
            self.seconds = max(0.0, time.monotonic() - begun - LAG_PERIOD_SECONDS)
            metrics.LOOP_LAG_SECONDS.set(self.seconds)


class HealthServer:
    """Serves probes and metrics on their two ports until closed."""

    def __init__(self, vitals: Callable[[], Vitals], host: str, health_port: int, metrics_port: int) -> None:
        self._vitals = vitals
        self._host = host
        self._ports = {
            health_port: [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)],
            metrics_port: [web.get("/metrics", self._metrics)],
        }
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        for port, routes in self._ports.items():
            app = web.Application()
            app.add_routes(routes)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            self._runners.append(runner)
            await web.TCPSite(runner, self._host, port).start()

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        found = complaints(self._vitals())
        return web.Response(status=503 if found else 200, text="\n".join(found) or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._vitals().ready
        return web.Response(status=200 if ready else 503, text="ok" if ready else "the resources were not listed yet")

    async def _metrics(self, _: web.Request) -> web.Response:
        vitals = self._vitals()
        metrics.QUEUE_DEPTH.set(vitals.depth)
        metrics.QUEUE_STUCK_SECONDS.set(vitals.stuck)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
