"""All worker pods in one list, shared by every resource that is looked at within the same second; never a watch on Pods."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from marty_operator.cluster import Cluster
from marty_operator.observation import Pod
from marty_operator.plan.labels import KIND, OURS, label_value
from marty_operator.resource import Key

FRESH_SECONDS: Final = 1.0


class PodList:
    """`namespaces` empty means all namespaces."""

    def __init__(self, cluster: Cluster, namespaces: Sequence[str], now: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._scopes: Sequence[str | None] = list(namespaces) or [None]
        self._now = now
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._pods: dict[Key, list[Pod]] = {}

    async def of(self, key: Key) -> list[Pod]:
        """The resource's pods as they were at most a second ago, by name."""
        async with self._lock:
            if self._now() - self._read_at >= FRESH_SECONDS:
                self._pods = await self._read()
                self._read_at = self._now()
        return self._pods.get(key._replace(name=label_value(key.name)), [])

    async def _read(self) -> dict[Key, list[Pod]]:
        found: dict[Key, list[Pod]] = defaultdict(list)
        for scope in self._scopes:
            async for manifest in self._cluster.list("Pod", scope, f"{OURS},{KIND}"):
                pod = Pod.parse(manifest)
                if pod is not None:
                    found[Key(pod.kind, pod.namespace, pod.resource)].append(pod)
        return {key: sorted(pods, key=lambda pod: pod.name) for key, pods in found.items()}
