"""`marty saga`: the instances of sagas, for the people who look after them."""

from collections.abc import Mapping
from typing import Final

import click

from marty_msf.cli import LazyGroup

#: name -> (module, attribute, one line for --help).
COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "list": ("marty_msf.cli.saga_reading", "list_", "List instances by state, step, age, key or error."),
    "get": ("marty_msf.cli.saga_reading", "get", "Show one instance with its context."),
    "timeline": ("marty_msf.cli.saga_reading", "timeline", "Show every attempt of one instance, and every verb."),
    "start": ("marty_msf.cli.saga_starting", "start", "Start an instance, once per business key."),
    "cancel": ("marty_msf.cli.saga_verbs", "cancel", "Undo what may have happened, and end."),
    "retry": ("marty_msf.cli.saga_verbs", "retry", "Make a parked instance's call again, as a new call."),
    "skip-step": ("marty_msf.cli.saga_verbs", "skip_step", "Take a parked instance's step for handled."),
    "resume": ("marty_msf.cli.saga_verbs", "resume", "Let a paused or parked instance go on."),
    "edit-context": ("marty_msf.cli.saga_verbs", "edit_context", "Change the context of a paused or parked instance."),
    "migrate": ("marty_msf.cli.saga_verbs", "migrate", "Move instances to another revision of the definition."),
    "archive": ("marty_msf.cli.saga_history", "archive", "Write ended instances into a file, one a line."),
    "locks": ("marty_msf.cli.saga_locks", "locks", "List semantic locks, who holds them and how many wait."),
    "unlock": ("marty_msf.cli.saga_locks", "unlock", "Take a lock from a parked or paused instance."),
    "prune": ("marty_msf.cli.saga_history", "prune", "Remove ended instances before their retention is over."),
    "pause": ("marty_msf.cli.saga_verbs", "pause", "Begin nothing more until resume."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def saga() -> None:
    """Look at saga instances, start them, and help those that need a person.

    The database is the one of --database-url or MARTY_DATABASE_URL; without either, the one that the Saga resource
    in the cluster names (-n, --context and --kubeconfig as with kubectl).

    Exit codes: 0 done; 1 refused, not found or not reachable; 2 wrong usage; 3 asked for, but not answered yet.
    """
