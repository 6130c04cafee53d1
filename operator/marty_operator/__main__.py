"""`python3 -m marty_operator`: reads the settings, wires the parts, runs until a signal."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from types import MappingProxyType
from typing import Any, Final

import aiohttp

from marty_msf.core import logs
from marty_msf.core.errors import InvalidDefinition, MartyError
from marty_operator import handlers
from marty_operator.cluster import Cluster
from marty_operator.freshness import Lister, WatchedGenerations
from marty_operator.health import HealthServer, LoopLag, Vitals
from marty_operator.plan.pod import RuntimeImage
from marty_operator.pods import PodList
from marty_operator.queue import WorkQueue
from marty_operator.reconcile import Reconciler
from marty_operator.resource import Key
from marty_operator.secrets import Hasher, ensure_hasher
from marty_operator.settings import Settings
from marty_operator.workers import Workers

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
#: Both tell of every single event at INFO; our own lines say what was done about it.
LIBRARIES: Final = MappingProxyType({"kopf": "WARNING", "aiohttp.access": "WARNING"})


async def run(settings: Settings) -> None:
    """The whole operator; returns after SIGTERM or SIGINT."""
    stop, ready = asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        cluster = await Cluster.connect()
        stack.push_async_callback(cluster.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        queue = WorkQueue(settings.concurrency)
        watched, lag = WatchedGenerations(), LoopLag()
        reconciler: Reconciler | None = None

        def on_listed(key: Key, generation: int) -> None:
            if reconciler is None or not reconciler.knows(key, generation):
                queue.add(key)

        lister = Lister(cluster, settings.namespaces, on_listed)

        def vitals() -> Vitals:
            read = reconciler.generations if reconciler else {}
            return Vitals(
                stuck=queue.stuck_seconds,
                blind=watched.behind_seconds(read, time.monotonic()),
                loop_lag=lag.seconds,
                ready=ready.is_set() and lister.succeeded_at > float("-inf"),
                depth=queue.depth,
            )

        server = HealthServer(vitals, settings.http_host, settings.health_port, settings.metrics_port)
        await server.start()
        stack.push_async_callback(server.close)

        hasher = await _prepared(cluster, settings)
        image = RuntimeImage(settings.runtime_image, settings.runtime_image_pull_policy)
        pods = PodList(cluster, settings.namespaces)
        reconciler = Reconciler(cluster, pods, Workers(session), hasher, image)
        applier = reconciler.applier

        def on_resource(key: Key, generation: int | None) -> None:
            if watched.show(key, generation):
                queue.add(key)

        def on_owned(key: Key, manifest: Mapping[str, Any], gone: bool) -> None:
            applier.note(key, manifest, gone)
            queue.add(key)

        registry = handlers.registry(on_resource, on_owned)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(queue.run(stop, reconciler), name="queue")
            tasks.create_task(lister.run(stop), name="lister")
            tasks.create_task(lag.run(stop), name="loop lag")
            signals = tasks.create_task(_on_signal(stop, ready), name="signals")
            await asyncio.sleep(0)  # kopf cancels, when it ends, every task that did not exist before it
            logger.info("watching %s", ", ".join(settings.namespaces) or "all namespaces")
            await handlers.watch(registry, settings.namespaces, stop, ready)
            signals.cancel()


async def _on_signal(stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Take the signals over from kopf, so that running passes end before it does."""
    await ready.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _prepared(cluster: Cluster, settings: Settings) -> Hasher:
    """Wait for the API server and the CRDs: without them kopf would start and see nothing for ever."""
    while True:
        try:
            if await cluster.serves_our_kinds():
                return await ensure_hasher(cluster, settings.namespace)
            logger.warning("the CRDs are not installed yet: install the chart with crds.enabled, or apply crds/")
        except MartyError as error:
            logger.warning("the API server cannot be used yet: %s", error)
        await asyncio.sleep(RETRY_SECONDS)


def main() -> int:
    """Exit code 2 for wrong settings."""
    try:
        settings = Settings.from_environment()
    except InvalidDefinition as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_level, LIBRARIES)
    with suppress(KeyboardInterrupt):
        asyncio.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
