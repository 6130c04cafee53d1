"""`marty dlq`: dead letters, for the people who look after them."""

from collections.abc import Mapping
from typing import Final

import click

from marty_msf.cli import LazyGroup

#: name -> (module, attribute, one line for --help).
COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "list": ("marty_msf.cli.dlq_reading", "list_", "List causes, or the dead letters that filters choose."),
    "show": ("marty_msf.cli.dlq_reading", "show", "Show one event with everything known of it."),
    "redrive": ("marty_msf.cli.dlq_verbs", "redrive", "Let dead letters be tried again, in their order."),
    "discard": ("marty_msf.cli.dlq_verbs", "discard", "Remove dead letters for good."),
    "edit": ("marty_msf.cli.dlq_verbs", "edit", "Change the payload or headers of one dead letter."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def dlq() -> None:
    """Look at events that were given up, and decide what becomes of them.

    The database is the one of --database-url or MARTY_DATABASE_URL; without either, the one that the OutboxRelay in the
    cluster names (--relay, -n, --context and --kubeconfig as with kubectl).

    Exit codes: 0 done; 1 refused, not found or not reachable; 2 wrong usage.
    """
