"""The command line `marty`. Commands are imported when they are called, so that `marty --help` is quick."""

from importlib import import_module
from typing import Final

import click

#: name -> (module, attribute, one line for --help).
COMMANDS: Final = {
    "run": ("marty_msf.cli.run", "run", "Run a worker: saga, relay or projection."),
    "migrate": ("marty_msf.cli.migrate", "migrate", "Bring the database schema to this program's version."),
    "version": ("marty_msf.cli.version", "version", "Print the version."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup)
def main() -> None:
    """Data consistency for microservices: sagas, transactional outbox, projections."""
