"""`marty run`: one worker process."""

import asyncio
import atexit
import os
import sys
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import click
import uvloop
from pydantic import ValidationError

from marty_msf.core import logs, worker_config
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kinds import Role
from marty_msf.core.worker_config import ProjectionConfig, RelayConfig, SagaConfig
from marty_msf.worker import collector
from marty_msf.worker.service import serve
from marty_msf.worker.settings import Settings

#: The client logs each failed attempt; the board says the same once, with the remedy.
LIBRARIES: Final = MappingProxyType({"aiokafka": "CRITICAL"})

#: Of the pod's grace period, after the worker has stopped: for tasks and threads that its user's functions left.
END_SECONDS: Final = 2


@click.command()
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("/etc/marty/config.json"),
    show_default=True,
    help="The worker's configuration, as the operator renders it.",
)
@click.option(
    "--code",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with your own Python modules; what is installed comes before them.",
)
def run(role: str, path: Path, code: Path | None) -> None:
    """Run a worker until SIGTERM.

    Needs MARTY_DATABASE_URL and MARTY_TOKEN in the environment. A missing database, schema or broker does not end it:
    it says so on /status and goes on as soon as it can.
    """
    try:
        config = worker_config.parse(path.read_bytes())
        if config.role is not Role.RELAY:
            # Not imported at the top: a relay has no expressions, and need not hold their engine in memory.
            import_module("marty_msf.core.definition_check").check_expressions(config.spec)
        settings = Settings.from_environment(os.environ)
    except ValidationError as error:
        # Without the values: they may be secrets.
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise click.UsageError(f"configuration ({path}) or environment (MARTY_…): {problems}") from None
    except InvalidDefinition as error:
        raise click.UsageError(f"{path}: {error}") from error
    if config.role.value != role:
        raise click.UsageError(f"{path} configures a {config.role.value}, not a {role}")
    logs.configure(settings.log_level, LIBRARIES)
    if code is not None:
        # At the end: a file of the user's may have the name of a module that this program imports.
        sys.path.append(str(code))
    collector.set_pace()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(_served(config, settings)):
            _leave()


async def _served(config: SagaConfig | RelayConfig | ProjectionConfig, settings: Settings) -> bool:
    """Serve; then end what the user's functions began. False: some of it does not end."""
    await serve(config, settings)
    # What asyncio.Runner does after this, but bounded.
    loop = asyncio.get_running_loop()
    rest: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    rest.add(loop.create_task(loop.shutdown_default_executor()))
    _, left = await asyncio.wait(rest, timeout=END_SECONDS)
    return not left


def _leave() -> None:
    """End the process although tasks or threads go on: asyncio, and Python after it, would wait for them until SIGKILL.

    All that is kept is in the database by now. What libraries do at the exit (spans, logs) is done still.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
