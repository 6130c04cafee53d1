"""The only module that calls kopf: it turns watch events into keys for the queue, and nothing else.

Change handlers, timers and daemons of kopf are not used: they are edge-triggered, write annotations into the resources
and need finalizers that would hang a namespace while the operator is away.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import kopf

from marty_msf.core.resources.kinds import KINDS
from marty_msf.core.resources.spec import GROUP, VERSION
from marty_operator import metrics
from marty_operator.cluster import FIELD_MANAGER, load_configuration
from marty_operator.plan.labels import KIND, NAME, OURS
from marty_operator.resource import Key

logger = logging.getLogger(__name__)

#: Group, version and plural of what resources own and what is watched for drift. Never Pods and never Secrets.
OWNED: Final = (
    ("apps", "v1", "deployments"),
    ("", "v1", "configmaps"),
    ("", "v1", "services"),
    ("", "v1", "serviceaccounts"),
)
#: The token of a service account is replaced about hourly; kopf asks again this often.
LOGIN_AGAIN: Final = timedelta(minutes=10)

#: Shortest time between two starts of kopf.
START_AGAIN_SECONDS: Final = 2.0
SUPERVISE_SECONDS: Final = 0.5
#: Longer than kopf needs to start its watches.
MISSING_SECONDS: Final = 4.0
#: Given to kopf to end its watches by itself; the process has 30 s from SIGTERM.
PATIENCE_SECONDS: Final = 3.0
#: How kopf names the tasks of its watches.
WATCHER_TASK: Final = "watcher for "

OnResource = Callable[[Key, int | None], None]
Handler = Callable[..., Coroutine[Any, Any, None]]
OnOwned = Callable[[Key, Mapping[str, Any], bool], None]


def registry(on_resource: OnResource, on_owned: OnOwned) -> kopf.OperatorRegistry:
    """`on_resource(key, generation)`, None when it is gone; `on_owned(key of the owner, manifest, gone)`."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(login)
    for kind in KINDS.values():
        kopf.on.event(GROUP, VERSION, kind.plural, registry=handlers)(_resource_handler(kind.kind, on_resource))
    for group, version, plural in OWNED:
        kopf.on.event(group, version, plural, registry=handlers)(_owned_handler(on_owned))
    return handlers


def settings(namespaced: bool) -> kopf.OperatorSettings:
    """Watches that notice a silent connection, and no writes by kopf itself."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = namespaced
    result.watching.server_timeout = 300
    result.watching.client_timeout = 310
    result.watching.connect_timeout = 30
    result.watching.reconnect_backoff = 1
    result.networking.error_backoffs = (0.5, 1, 1, 2, 2, 4, 4)
    result.networking.request_timeout = 30
    result.networking.connect_timeout = 10
    for selector in OWNED:
        result.watching.label_selectors[selector] = OURS
    return result


async def watch(
    handlers: kopf.OperatorRegistry, namespaces: Sequence[str], stop: asyncio.Event, ready: asyncio.Event
) -> None:
    """Until `stop` or a signal, which sets `stop`; `ready` is set while kopf watches.

    kopf ends with an error when the API server fails at the wrong moment, and leaves a watch dead that was answered
    with, say, HTTP 410 or 403. In both cases it is started again here: leaving that to Kubernetes would mean minutes of
    back-off just after an outage. Meanwhile passes go on by themselves.
    """
    expected = (len(KINDS) + len(OWNED)) * max(1, len(namespaces))
    while not stop.is_set():
        begun, end_round = time.monotonic(), asyncio.Event()
        supervisor = asyncio.create_task(_supervise(expected, stop, end_round), name="watch supervisor")
        try:
            await kopf.operator(
                registry=handlers,
                settings=settings(namespaced=bool(namespaces)),
                # Else kopf asks for the user's name, which the uid of a container need not have.
                identity=cast("Any", FIELD_MANAGER),
                standalone=True,
                clusterwide=not namespaces,
                namespaces=list(namespaces),
                stop_flag=end_round,
                ready_flag=ready,
            )
            if not end_round.is_set():
                stop.set()  # kopf met the signal itself
        except Exception as error:
            logger.warning("the watches ended: %s: %s", type(error).__name__, error)
        finally:
            supervisor.cancel()
            ready.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, START_AGAIN_SECONDS - (time.monotonic() - begun)))


async def _supervise(expected: int, stop: asyncio.Event, end_round: asyncio.Event) -> None:
    """End kopf's round on `stop`, and when fewer watches run than should; until cancelled, see to it that it does end.

    When one watch fails, kopf stops all others, but one that is cancelled together with its pause waiter takes that for
    a pause and goes on for ever. A second cancellation ends it.
    """
    missing_since = time.monotonic()
    while not stop.is_set() and time.monotonic() - missing_since < MISSING_SECONDS:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SUPERVISE_SECONDS)
        if len(_watchers()) >= expected:
            missing_since = time.monotonic()
    if not stop.is_set():
        logger.warning("only %d of %d watches run: all are started again", len(_watchers()), expected)
    end_round.set()
    while True:
        await asyncio.sleep(PATIENCE_SECONDS)
        for task in _watchers():
            task.cancel()


def _watchers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith(WATCHER_TASK)]


async def login(**__: Any) -> kopf.ConnectionInfo:
    """The same address and credentials as our own client, by the same loader."""
    configuration = await load_configuration()
    token = await configuration.get_api_key_with_prefix("BearerToken")
    scheme, _, secret = str(token or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=base64.b64encode(str(configuration.ca_cert_data).encode()) if configuration.ca_cert_data else None,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() if secret else None,
        token=secret or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        expiration=datetime.now(UTC) + LOGIN_AGAIN,
    )


def _resource_handler(kind: str, on_resource: OnResource) -> Handler:
    async def handle(type: str | None, meta: kopf.Meta, **_: Any) -> None:  # noqa: A002  # kopf passes it by this name
        metrics.WATCH_EVENTS.labels(kind).inc()
        key = Key(kind, str(meta["namespace"]), str(meta["name"]))
        on_resource(key, None if type == "DELETED" else int(meta.get("generation", 1)))

    return handle


def _owned_handler(on_owned: OnOwned) -> Handler:
    async def handle(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002
        key = owner(body)
        if key is not None:
            metrics.WATCH_EVENTS.labels(str(body.get("kind", "owned"))).inc()
            on_owned(key, body, type == "DELETED")

    return handle


def owner(manifest: Mapping[str, Any]) -> Key | None:
    """The resource that an object of ours belongs to: by its owner reference, else by its labels."""
    metadata = manifest["metadata"]
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller") and reference["apiVersion"].startswith(GROUP) and reference["kind"] in KINDS:
            return Key(reference["kind"], metadata["namespace"], reference["name"])
    labels = metadata.get("labels") or {}
    if labels.get(KIND) in KINDS and NAME in labels:
        return Key(labels[KIND], metadata["namespace"], labels[NAME])
    return None
