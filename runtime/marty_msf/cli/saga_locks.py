"""`marty saga locks` and `unlock`."""

import click

from marty_msf.cli.connection import Target, opened, run, target_options
from marty_msf.cli.saga_orders import Order, carry_out
from marty_msf.cli.saga_reading import output_option
from marty_msf.cli.saga_verbs import requested
from marty_msf.cli.tables import age, json_text, table
from marty_msf.core.saga.selection import Selection, sought
from marty_msf.core.saga.short_ids import shortened
from marty_msf.store import saga_lock
from marty_msf.store.saga_lock import Listed


@click.command()
@click.argument("name", required=False)
@click.option("--key", help="This key only.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Locks shown at most.")
@target_options
@output_option
def locks(name: str | None, key: str | None, limit: int, target: Target, output: str) -> None:
    """List the locks that instances of the saga NAME (all sagas without it) hold or wait for, the longest held first."""
    rows = run(_listed(target, name, key, limit))
    if output == "json":
        click.echo(json_text({"locks": [row.form() for row in rows]}))
        return
    if not rows:
        click.echo("No locks found.", err=True)
        return
    forms = shortened(row.instance for row in rows if row.instance)
    columns = {
        "KEY": [row.key for row in rows],
        "HOLDER": [forms[row.instance] if row.instance else "-" for row in rows],
        "SAGA": [row.resource or "-" for row in rows],
        "NAME": [row.business_key or "-" for row in rows],
        "STATE": [row.state or "-" for row in rows],
        "SINCE": [age(row.held_at) if row.held_at else "-" for row in rows],
        "WAITING": [str(row.waiters) for row in rows],
    }
    click.echo(table(list(columns), list(zip(*columns.values(), strict=True))))


@click.command()
@click.argument("key")
@click.option("--saga", help="Of an instance of this saga.")
@click.option("--as", "by", help="Who asks, for the audit. [default: the user of this computer]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask back.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
@click.option("--wait", default=10.0, show_default=True, help="Seconds to wait for the answer.")
@target_options
@output_option
def unlock(
    key: str, saga: str | None, by: str | None, yes: bool, dry_run: bool, wait: float, target: Target, output: str
) -> None:
    """Take the lock KEY, and the others it has, from the parked or paused instance that holds it.

    The next waiter gets it at once. The instance waits for it again before it goes on.
    """

    async def work() -> None:
        held = [row for row in await _listed(target, saga, key, 100) if row.instance is not None]
        if not held:
            raise click.ClickException(f"nobody holds the lock {key!r}: look with `marty saga locks`")
        if len(held) > 1:
            names = ", ".join(row.namespace for row in held)
            raise click.ClickException(f"{key!r} is held in several places ({names}): give -n NAMESPACE or --saga")
        request = requested("unlock", {}, by)
        json = output == "json"
        ids, resource = (str(held[0].instance),), held[0].resource
        await carry_out(Order(ids, resource, Selection(), 1, target, request, yes, dry_run, wait, json))

    run(work())


async def _listed(target: Target, name: str | None, key: str | None, limit: int) -> list[Listed]:
    key = sought("key", key)
    rows: list[Listed] = []
    for site in await target.sites(name):
        async with opened(site) as conn:
            rows += await saga_lock.listed(conn, site.resources, key, limit)
    return rows[:limit]
