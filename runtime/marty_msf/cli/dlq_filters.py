"""The options that the commands about dead letters share."""

import getpass
import socket
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.outbox.dead_letters import Choice, Person, choice

T = TypeVar("T")

relay_option = click.option("--relay", help="Name of the OutboxRelay, where a namespace has several.")
ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1)


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the filter options; the command gets them as `chosen`, with its argument `ids` if it has one."""

    @click.option("--cause", help="Died of this cause: twelve hex digits.")
    @click.option("--topic", help="For this Kafka topic.")
    @click.option("--event-type", help="Of this type.")
    @click.option("--aggregate", "aggregate_id", help="Of the aggregate with this id.")
    @click.option("--since", help="Failed last in the last 90s, 30m, 2h or 3d, or since a time (2026-01-31T12:00Z).")
    @click.option("--until", help="Failed last longer ago than that, or before a time.")
    @wraps(command)
    def wrapped(
        *arguments: Any,
        cause: str | None,
        topic: str | None,
        event_type: str | None,
        aggregate_id: str | None,
        since: str | None,
        until: str | None,
        ids: tuple[str, ...] = (),
        **options: Any,
    ) -> T:
        try:
            chosen: Choice = choice(
                ids=ids or None,
                cause=cause,
                topic=topic,
                event_type=event_type,
                aggregate_id=aggregate_id,
                since=since,
                until=until,
                now_ms=time.time_ns() // 1_000_000,
            )
        except InvalidDefinition as problem:
            path = problem.path.replace("_", "-")
            option = {"id": "ID", "ids": "IDs", "aggregate-id": "--aggregate"}.get(path, f"--{path}")
            raise click.UsageError(f"{option}: {problem.problem}: {problem.remedy}") from problem
        return command(*arguments, chosen=chosen, **options)

    return wrapped


def person_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add who asks and why; the command gets them as `person`."""

    @click.option("--as", "who", help="Who asks, for the audit. [default: the user of this computer]")
    @click.option("--why", default="", help="Why, for the audit.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask back.")
    @click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
    @wraps(command)
    def wrapped(*arguments: Any, who: str | None, why: str, **options: Any) -> T:
        try:
            person = Person(f"{getpass.getuser()}@{socket.gethostname()}" if who is None else who, why)
        except InvalidDefinition as problem:
            option = "as" if problem.path == "who" else problem.path
            raise click.UsageError(f"--{option}: {problem.problem}: {problem.remedy}") from problem
        return command(*arguments, person=person, **options)

    return wrapped
