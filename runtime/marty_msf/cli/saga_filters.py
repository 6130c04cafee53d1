"""The filter options that listing and the verbs share."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.selection import Selection, selection
from marty_msf.worker.saga.clock import now_ms

T = TypeVar("T")


def filter_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the filter options; the command gets them as `chosen`."""

    @click.option("--state", help="One or more states, separated by commas: parked,running …")
    @click.option("--step", help="Is doing or undoing this step.")
    @click.option("--since", help="Started in the last 90s, 30m, 2h or 3d, or since a time (2026-01-31T12:00Z).")
    @click.option("--before", help="Started longer ago than that, or before a time.")
    @click.option("--key", help="Business key; * stands for anything.")
    @click.option("--error", help="Part of the error, in any case.")
    @click.option("--revision", help="Follows this revision of the definition.")
    @click.option("--stuck", is_flag=True, help="Makes no progress for longer than its stuckAfterSeconds.")
    @wraps(command)
    def wrapped(
        *arguments: Any,
        state: str | None,
        step: str | None,
        since: str | None,
        before: str | None,
        key: str | None,
        error: str | None,
        revision: str | None,
        stuck: bool,
        **options: Any,
    ) -> T:
        try:
            chosen: Selection = selection(
                state=state,
                step=step,
                since=since,
                before=before,
                key=key,
                error=error,
                revision=revision,
                stuck=stuck,
                now_ms=now_ms(),
            )
        except InvalidDefinition as problem:
            raise click.UsageError(f"--{problem}") from problem
        return command(*arguments, chosen=chosen, **options)

    return wrapped
