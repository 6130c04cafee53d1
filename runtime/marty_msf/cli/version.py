"""`marty version`."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click


@click.command()
def version() -> None:
    """Print the version of the installed distribution."""
    try:
        click.echo(installed("marty-msf"))
    except PackageNotFoundError:
        click.echo("not installed as a distribution")
