"""Which database a command works on, and what it may touch there."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import click
from asyncpg import Connection

from marty_msf.core.errors import DatabaseUnavailable, InvalidDatabaseUrl, InvalidDefinition, MartyError
from marty_msf.core.resources.kinds import Role
from marty_msf.core.saga.ended import gone
from marty_msf.core.saga.short_ids import shortened, span
from marty_msf.store import saga_history, saga_list
from marty_msf.store.database import CONNECT_TIMEOUT_SECONDS, connect, translate
from marty_msf.worker.saga.clock import now_ms

if TYPE_CHECKING:
    from marty_msf.cli.cluster import Cluster

T = TypeVar("T")
#: Names told in an error.
_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Site:
    """A database, and which of its resources are meant; None stands for all."""

    url: str
    resources: tuple[str, ...] | None
    #: It was found through the cluster, so its address may only be known inside.
    of_cluster: bool
    role: Role = Role.SAGA


@dataclass(frozen=True, slots=True)
class Target:
    """The connection options of a command."""

    database_url: str | None
    namespace: str | None
    context: str | None
    kubeconfig: str | None

    def _refuse(self, **cluster: str | None) -> None:
        """What names a cluster's resource means nothing beside a database's URL: whoever gives both means one of the two."""
        named = {**cluster, "--context": self.context, "--kubeconfig": self.kubeconfig}
        if self.database_url and (beside := [flag for flag, value in named.items() if value]):
            raise click.UsageError(
                f"{beside[0]} names a cluster's resource, and --database-url or MARTY_DATABASE_URL a database:"
                f" leave {beside[0]} out, or unset MARTY_DATABASE_URL"
            )

    def cluster(self) -> "Cluster":
        """The API server. Loads the client only now: it takes half a second. Raises click.ClickException."""
        try:
            module = import_module("marty_msf.cli.cluster")
        except ImportError as error:
            raise click.ClickException(
                f"the Kubernetes client is not installed ({error.name}): pip install 'marty-msf[operator]', "
                "or set MARTY_DATABASE_URL"
            ) from error
        cluster: Cluster = module.Cluster(self.kubeconfig, self.context, self.namespace)
        return cluster

    async def sites(self, name: str | None) -> list[Site]:
        """Where the saga `name` (all sagas without one) is. Raises click.ClickException."""
        self._refuse()
        if self.database_url:
            async with opened(Site(self.database_url, None, of_cluster=False)) as conn:
                known = await saga_list.resources(conn)
            return [Site(self.database_url, _chosen(known, name, self.namespace), of_cluster=False)]
        namespace, _, plain = (name or "").rpartition("/")
        target = Target(None, namespace, self.context, self.kubeconfig) if namespace else self
        cluster = target.cluster()
        if name:
            place = cluster.place("Saga", plain)
            return [Site(place.url, (place.resource,), of_cluster=True)]
        by_url: defaultdict[str, list[str]] = defaultdict(list)
        for place in cluster.places("Saga"):
            by_url[place.url].append(place.resource)
        if not by_url:
            raise click.ClickException(f"namespace {cluster.namespace} has no Saga: give -n NAMESPACE")
        return [Site(url, tuple(resources), of_cluster=True) for url, resources in by_url.items()]

    def outbox(self, name: str | None) -> Site:
        """The database of the OutboxRelay `name`, or of the only one. Raises click.ClickException."""
        self._refuse(**{"--relay": name, "--namespace": self.namespace})
        if self.database_url:
            return Site(self.database_url, None, of_cluster=False, role=Role.RELAY)
        namespace, _, plain = (name or "").rpartition("/")
        target = Target(None, namespace, self.context, self.kubeconfig) if namespace else self
        cluster = target.cluster()
        places = [cluster.place("OutboxRelay", plain)] if plain else cluster.places("OutboxRelay")
        if not places:
            raise click.ClickException(f"namespace {cluster.namespace} has no OutboxRelay: give -n NAMESPACE")
        if len({it.url for it in places}) > 1:
            raise click.ClickException(
                f"namespace {cluster.namespace} has several ({_named([it.resource for it in places])}): give --relay NAME"
            )
        return Site(places[0].url, tuple(it.resource for it in places), of_cluster=True, role=Role.RELAY)


def _chosen(known: Sequence[str], name: str | None, namespace: str | None) -> tuple[str, ...] | None:
    """The sagas of a database that a name and a namespace mean. Raises click.ClickException."""
    if name is None:
        return None if namespace is None else tuple(it for it in known if it.startswith(f"{namespace}/"))
    wanted = name if "/" in name or namespace is None else f"{namespace}/{name}"
    fitting = tuple(it for it in known if it == wanted or it.endswith(f"/{wanted}"))
    if len(fitting) == 1:
        return fitting
    if fitting:
        raise click.ClickException(f"{name}: is in several namespaces ({_named(fitting)}): give -n NAMESPACE")
    raise click.ClickException(
        f"{wanted}: no such saga ever ran on this database: "
        + (f"it knows {_named(known)}" if known else "it knows none yet")
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


@asynccontextmanager
async def opened(site: Site) -> AsyncIterator[Connection]:
    """A connection. Raises click.ClickException when there is none."""
    try:
        with translate():
            conn = await connect(site.url, server_settings={"application_name": f"marty {site.role}"})
    except InvalidDatabaseUrl as error:
        raise click.UsageError(str(error)) from error
    except DatabaseUnavailable as error:
        hint = (
            " (its address may only be known inside the cluster: run "
            f"`kubectl exec deploy/NAME-{site.role} -- marty …`, "
            "or forward its port and give --database-url)"
            if site.of_cluster
            else ""
        )
        raise click.ClickException(f"{error}{hint}") from error
    try:
        with translate():
            yield conn
    finally:
        await conn.close(timeout=CONNECT_TIMEOUT_SECONDS)


@dataclass(frozen=True, slots=True)
class Found:
    """An instance that was named on the command line."""

    site: Site
    resource: str
    id: UUID


async def find(sites: Sequence[Site], text: str) -> Found:
    """The one instance that an id, maybe shortened, names. Raises click.ClickException."""
    first, last, ending = span(text)
    found: list[Found] = []
    for site in sites:
        async with opened(site) as conn:
            rows = await saga_list.find(conn, first, last, ending, site.resources, _NAMED)
        found += [Found(site, resource, instance) for instance, resource in rows]
    if len(found) == 1:
        return found[0]
    if not found:
        why = gone(first, await _kept_hours(sites), now_ms()) or "look with `marty saga list`"
        raise click.ClickException(f"{text}: there is no such instance: {why}")
    forms = shortened(it.id for it in found)
    raise click.ClickException(f"{text}: names several instances: {', '.join(forms.values())}: give more of the id")


async def _kept_hours(sites: Sequence[Site]) -> int | None:
    """The shortest retention among the sagas that are meant; None when all of them keep everything."""
    hours: list[int] = []
    for site in sites:
        async with opened(site) as conn:
            found = await saga_history.retentions(conn)
        hours += [it.hours for resource, it in found.items() if site.resources is None or resource in site.resources]
    return min(hours, default=None)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; our errors end the program with one line on stderr."""
    try:
        return asyncio.run(work)
    except InvalidDefinition as error:
        raise click.UsageError(str(error)) from error
    except MartyError as error:
        raise click.ClickException(str(error)) from error


def target_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the connection options; the command gets them as `target`."""

    @click.option(
        "--database-url",
        envvar="MARTY_DATABASE_URL",
        help="postgresql://…; default: MARTY_DATABASE_URL, else the cluster.",
    )
    @click.option("-n", "--namespace", help="Namespace of the resource.")
    @click.option("--context", help="Context of the kubeconfig.")
    @click.option("--kubeconfig", help="Path of the kubeconfig.")
    @wraps(command)
    def wrapped(
        *arguments: Any,
        database_url: str | None,
        namespace: str | None,
        context: str | None,
        kubeconfig: str | None,
        **options: Any,
    ) -> T:
        return command(*arguments, target=Target(database_url, namespace, context, kubeconfig), **options)

    return wrapped
