"""The shell around a role: HTTP, signals, and a supervisor that never lets the process end because something is missing.

Whatever Postgres, Kafka or the schema refuse becomes a problem on the board and is tried again; only SIGTERM or SIGINT
end the process, after the role has finished or handed back what was in flight.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from typing import Final, Protocol

import asyncpg
from aiohttp import web

from marty_msf.core.errors import MartyError
from marty_msf.core.resources.spec import RunState
from marty_msf.core.worker_config import ProjectionConfig, RelayConfig, SagaConfig, revision
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store.database import open_pool, translate
from marty_msf.store.migrations import check_version
from marty_msf.worker import roles
from marty_msf.worker.backoff import Backoff, pause
from marty_msf.worker.board import Board
from marty_msf.worker.groups import first_error
from marty_msf.worker.http import Surface, application
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.settings import Settings

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS: Final = 0.2
LONGEST_RETRY_SECONDS: Final = 5
#: A run that lasted this long was healthy: the next failure starts with short waits again.
HEALTHY_SECONDS: Final = 30
#: Of the pod's 30 s between SIGTERM and SIGKILL.
STOP_SECONDS: Final = 25
CLOSE_SECONDS: Final = 2


async def serve(config: SagaConfig | RelayConfig | ProjectionConfig, settings: Settings) -> None:
    """Run the worker until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    board = Board()
    board.report(ProblemReason.STARTING, "the worker has not yet reached its database")
    pool = await open_pool(
        settings.database_url.get_secret_value(),
        config.spec.database.pool_size,
        f"marty-{config.role.value} {config.resource}",
    )
    context = Context(pool, settings.holder(), config.resource, board, new_registry(board))
    role = roles.make(context, config)
    surface = Surface(role, board, context.registry, config.resource, revision(config))
    runner = web.AppRunner(
        application(surface, role, settings.token.get_secret_value()), access_log=None, shutdown_timeout=CLOSE_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port).start()
        logger.info("%s %s runs as %s", config.role.value, config.resource, context.holder)
        paused = config.spec.state is not RunState.RUNNING
        await _until_stopped(supervise(_Paused(board) if paused else role, pool, board, stop), stop, board)
        logger.info("stopped")
    finally:
        await runner.cleanup()
        await close(pool)


class Work(Protocol):
    """What can be supervised: Role.run."""

    async def run(self, stop: asyncio.Event) -> None: ...


async def supervise(role: Work, pool: asyncpg.Pool, board: Board, stop: asyncio.Event) -> None:
    """Run the role, again and again after errors, until `stop`."""
    backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
    while not stop.is_set():
        began = time.monotonic()
        try:
            with translate():
                async with pool.acquire() as conn:
                    await check_version(conn)
            await role.run(stop)
        except Exception as error:
            _tell(error, board)
        if time.monotonic() - began > HEALTHY_SECONDS:
            backoff.reset()
        if not stop.is_set():
            await pause(stop, backoff.next())


def _tell(error: Exception, board: Board) -> None:
    cause = first_error(error) if isinstance(error, ExceptionGroup) else error
    if not isinstance(cause, MartyError):
        logger.error("unexpected error; the work starts again from the database's state", exc_info=error)
    board.replace(cause)


async def _until_stopped(work: Coroutine[None, None, None], stop: asyncio.Event, board: Board) -> None:
    """Await the work; after `stop` it has STOP_SECONDS left."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await until_ended(task, board)


async def until_ended(task: asyncio.Future[None], board: Board) -> None:
    """Await work that was told to stop, for STOP_SECONDS; then it is cancelled, and left if even that does not end it."""
    done, _ = await asyncio.wait({task}, timeout=STOP_SECONDS)
    if done:
        if not task.cancelled():
            task.result()
        return
    problem = f"the work did not end within {STOP_SECONDS} s and is cancelled: leases expire by themselves"
    logger.error(problem)
    board.report(ProblemReason.INTERNAL_ERROR, problem)
    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_SECONDS)


async def close(pool: asyncpg.Pool) -> None:
    """Close the connections, not waiting for a server that does not answer."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


class _Paused:
    """`state: Paused`: owns nothing, works on nothing, but says that it could."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def run(self, stop: asyncio.Event) -> None:
        self._board.clear()
        await stop.wait()
