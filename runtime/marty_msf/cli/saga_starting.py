"""`marty saga start`."""

import sys
from pathlib import Path
from typing import Any

import click
import orjson
from asyncpg import Connection

from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.tables import json_text
from marty_msf.core.names import LIBRARY_NAMESPACE
from marty_msf.core.saga.definition import load
from marty_msf.store import saga_instance, saga_list, saga_start
from marty_msf.worker.saga.starts import prepare


@click.command()
@click.argument("name")
@click.option("--key", "business_key", required=True, help="The business case: a second start with it starts nothing.")
@click.option(
    "--input", "text", default="{}", show_default=True, help="The context: JSON object, @FILE, or @- for stdin."
)
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be done.")
@target_options
@output_option
def start(name: str, business_key: str, text: str, dry_run: bool, target: Target, output: str) -> None:
    """Start an instance of the saga NAME unless one with the same key exists; its workers take it up."""
    answer = run(_start(target, name, business_key, json_object("--input", text), dry_run=dry_run))
    if output == "json":
        click.echo(json_text(answer))
        return
    saga_id, saga, revision = answer["saga_id"], answer["saga"], answer["revision"]
    if not answer["created"]:
        click.echo(f"{saga} has the key {business_key!r} already: instance {saga_id}. Nothing was started.")
    elif dry_run:
        click.echo(f"Would start an instance of {saga}, revision {revision}. Nothing was changed.")
    else:
        click.echo(f"Started {saga_id} of {saga}, revision {revision}. Follow it: marty saga timeline {saga_id}")


def json_object(option: str, text: str) -> dict[str, Any]:
    """What an option gives as JSON, `@FILE` or `@-`. Raises click.UsageError."""
    try:
        if text.startswith("@"):
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text(encoding="utf-8")
        value = orjson.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{option}: {text}: {error}: name a file of JSON") from error
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{option}: is no JSON ({error}): give an object like '{{\"order_id\": 7}}'") from error
    if not isinstance(value, dict):
        raise click.UsageError(f"{option}: is a {type(value).__name__}: give a JSON object")
    return value


async def _start(
    target: Target, name: str, business_key: str, context: dict[str, Any], *, dry_run: bool
) -> dict[str, Any]:
    (site,) = await target.sites(name)
    async with opened(site) as conn:
        (resource,) = site.resources or ("",)
        revision = await saga_list.present_revision(conn, resource)
        if revision is None and resource.startswith(f"{LIBRARY_NAMESPACE}/"):
            raise click.ClickException(
                f"{resource}: each start of it brings its own steps: start it by SagaOrchestrator.start_saga in Python"
            )
        if revision is None:
            raise click.ClickException(f"{resource}: no worker of it ever ran on this database: let one start first")
        stored = await saga_instance.definitions(conn, resource, [revision])
        prepared = prepare(load(stored[revision]), business_key, context)
        if dry_run:
            existing = await conn.fetchval(saga_start.EXISTING, resource, business_key)
            instance, created = existing, existing is None
        else:
            instance, created = await _insert(conn, resource, revision, prepared.new)
    return {
        "saga_id": str(instance) if instance else None,
        "saga": resource,
        "revision": revision,
        "created": created,
        "dry_run": dry_run,
    }


async def _insert(conn: Connection, resource: str, revision: str, new: saga_start.New) -> tuple[Any, bool]:
    """As Pending: the owner of its lane takes it up within a tenth of a second."""
    pending = saga_start.New(new.id, new.business_key, new.context, None)
    placed = await saga_start.start(
        conn, resource, revision, [pending], scope="", holder="", epochs={}, slot=saga_start.SLOTS[0]
    )
    return placed[new.business_key].id, placed[new.business_key].created
