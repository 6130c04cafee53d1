"""The command line `marty`. Commands are imported when they are called, so that `marty --help` is quick."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

#: name -> (module, attribute, one line for --help).
COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "run": ("marty_msf.cli.run", "run", "Run a worker: saga, relay or projection."),
    "migrate": ("marty_msf.cli.migrate", "migrate", "Bring the database schema to this program's version."),
    "saga": ("marty_msf.cli.saga", "saga", "Look at saga instances, start them, and help those that need a person."),
    "dlq": ("marty_msf.cli.dlq", "dlq", "Look at dead letters, redrive, edit or discard them."),
    "outbox": ("marty_msf.cli.outbox", "outbox", "Look at the outbox, and mend it after a restore."),
    "version": ("marty_msf.cli.version", "version", "Print the version."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and help without importing them."""

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self._table.items()])


@click.group(cls=LazyGroup, table=COMMANDS)
def main() -> None:
    """Data consistency for microservices: sagas, transactional outbox, projections."""
