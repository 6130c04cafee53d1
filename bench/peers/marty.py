"""Our own side: the role of the saga pod in one process, driven like the peers. DATABASE_URL names a migrated database.

Arguments: `python`, steps that are functions of the process (call.python); `http HOST:PORT`, steps that are calls to a service; or
`bare HOST:PORT`, no saga at all: the same calls by aiohttp's client, as many and as fast as it can make them.
"""

import asyncio
import gc
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import uvloop

from bench.peers.programs.load import COMPENSATED, COMPLETED, serve
from marty_msf.core.saga.instance import State
from marty_msf.core.worker_config import SagaConfig
from marty_msf.store.database import open_pool
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.memory import Live
from marty_msf.worker.saga.metrics import Ended
from marty_msf.worker.saga.role import SagaRole

WORKERS = 200
OUTCOMES: Mapping[State, str] = {State.COMPLETED: COMPLETED, State.COMPENSATED: COMPENSATED}


def config(mode: str, service: str) -> SagaConfig:
    """The Saga as the operator would render it."""

    def step(name: str, **more: str) -> dict[str, Any]:
        call = {"call": {"python": {"handler": name}}} if mode == "python" else {}
        return {"name": name, "service": service, "action": name, **more, **call}

    spec: dict[str, Any] = {
        "database": {"urlSecretRef": {"name": "bench"}},
        "workers": WORKERS,
        "steps": [step("reserve", compensation="release"), step("charge", compensation="refund"), step("ship")],
    }
    if mode == "python":
        spec["runtime"] = {"handlers": "bench.peers.marty_steps"}
    return SagaConfig.model_validate({"role": "saga", "namespace": "bench", "name": "saga", "spec": spec})


class Heard(Ended):
    """What the role itself hears when a saga has ended, passed on."""

    def __init__(self, tell: Callable[[Live], None]) -> None:
        super().__init__()
        self._tell = tell

    def ended(self, live: Live) -> None:
        super().ended(live)
        self._tell(live)


async def sagas(mode: str, service: str) -> None:
    """Serve orders with whole sagas: one has ended when its last state is durable."""
    board = Board()
    pool = await open_pool(os.environ["DATABASE_URL"], 8, "marty-saga bench")
    context = Context(pool, f"bench/{secrets.token_hex(4)}", "bench/saga", board, new_registry(board))
    role = SagaRole(context, config(mode, service))
    waiting: dict[int, asyncio.Future[str]] = {}

    def ended(live: Live) -> None:
        waiting.pop(live.instance.context["order"]).set_result(OUTCOMES[live.instance.state])

    role._metrics.ended = Heard(ended)
    stop = asyncio.Event()
    running = asyncio.create_task(role.run(stop))
    while (engine := role.engine) is None or not engine.ready.is_set():
        await asyncio.sleep(0.01)

    loop = asyncio.get_running_loop()

    async def one(number: int) -> str:
        end: asyncio.Future[str] = loop.create_future()
        waiting[number] = end
        await engine.start(f"order-{number}", {"order": number})
        return await end

    await serve(one)
    stop.set()
    await running
    await pool.close()


async def bare(service: str) -> None:
    """Serve orders with single calls, of the size and with the headers that a step's call has."""
    saga = "0198a7de-1c00-7000-8000-000000000000"
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "Idempotency-Key": f"{saga}:charge:do:1",
        "traceparent": f"00-{saga.replace('-', '')}-0000000000000001-01",
    }
    url = f"http://{service}/charge"

    async def one(number: int) -> str:
        body = b'{"saga_id":"%b","step":"charge","context":{"order":%d,"reserve":%d},"data":{}}'
        call = client.post(url, data=body % (saga.encode(), number, number), headers=headers)
        async with call as response:
            await response.read()
        return COMPLETED

    connector = aiohttp.TCPConnector(limit=WORKERS)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as client:
        await serve(one)


def main() -> None:
    mode, service = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "shop")
    # As `marty run` does.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bare(service) if mode == "bare" else sagas(mode, service))


if __name__ == "__main__":
    main()
