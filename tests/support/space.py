"""A namespace of a test's own on the local cluster, with the few questions that tests ask about resources in it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from marty_msf.core.resources.spec import API_VERSION
from tests.support.cluster import Cluster
from tests.support.waiting import eventually

#: Pods start within seconds on a quiet machine; a shared one is not quiet.
START_SECONDS: Final = 90.0
#: The product's promise for everything that the schema cannot refuse.
REPORT_SECONDS: Final = 10.0
KAFKA: Final = {"bootstrapServers": "10.244.0.1:9092"}


@dataclass(frozen=True, slots=True)
class Space:
    """`secret` holds the URL of the test's database under the key `uri`."""

    cluster: Cluster
    namespace: str
    secret: str = "db"

    async def kubectl(self, *args: str, check: bool = True) -> str:
        """In the namespace; answers with stdout."""
        done = await asyncio.to_thread(self.cluster.kubectl, "-n", self.namespace, *args, check=check)
        return done.stdout

    async def apply(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """Server-side apply of one resource."""
        metadata = {"name": name, "namespace": self.namespace}
        document = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": dict(spec)}
        await asyncio.to_thread(self.cluster.apply, document)

    async def write_secret(self, name: str, key: str, value: str) -> None:
        """Create or replace."""
        metadata = {"name": name, "namespace": self.namespace}
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {key: value}}
        await asyncio.to_thread(self.cluster.apply, document)

    async def find(self, kind: str, name: str) -> dict[str, Any]:
        """Empty when it does not exist."""
        return await asyncio.to_thread(self.cluster.api.get, kind, self.namespace, name)

    async def names(self, kind: str, selector: str = "") -> set[str]:
        """Of all objects of a kind that are not being deleted."""
        query = f"?labelSelector={quote(selector)}"
        items = (await asyncio.to_thread(self.cluster.api.get, kind, self.namespace, query=query))["items"]
        return {item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]}

    async def until(
        self, kind: str, name: str, holds: Callable[[dict[str, Any]], Any], seconds: float = START_SECONDS
    ) -> dict[str, Any]:
        """The object once `holds` is true of it; {} stands for a missing one."""
        return await eventually(lambda: self.find(kind, name), holds, seconds=seconds, every=0.3)

    async def until_condition(
        self, kind: str, name: str, type_: str, status: str, reason: str = "", seconds: float = START_SECONDS
    ) -> dict[str, Any]:
        """The condition once it has this status (and reason) for the newest generation."""

        def holds(resource: dict[str, Any]) -> bool:
            found = condition(resource, type_)
            return (
                found.get("status") == status
                and (not reason or found["reason"] == reason)
                and found["observedGeneration"] == resource["metadata"]["generation"]
            )

        return condition(await self.until(kind, name, holds, seconds), type_)


def condition(resource: Mapping[str, Any], type_: str) -> dict[str, Any]:
    """Empty when the resource does not have it yet."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == type_), {})
