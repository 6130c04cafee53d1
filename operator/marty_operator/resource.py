"""One custom resource as the operator sees it: its identity and the parts of it that reconciling reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from marty_msf.core.resources.kinds import KINDS, Kind
from marty_msf.core.resources.spec import API_VERSION

Manifest = dict[str, Any]


class Key(NamedTuple):
    """What the queue holds: never a copy of the resource, so that nothing stale is ever acted on."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as it was read from the API server."""

    key: Key
    uid: str
    generation: int
    deleting: bool
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, manifest: Mapping[str, Any]) -> Self:
        """From the JSON of the API server."""
        metadata = manifest["metadata"]
        return cls(
            key=Key(manifest["kind"], metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            generation=int(metadata.get("generation", 1)),
            deleting="deletionTimestamp" in metadata,
            spec=manifest.get("spec") or {},
            status=manifest.get("status") or {},
        )

    @property
    def kind(self) -> Kind:
        return KINDS[self.key.kind]

    @property
    def owner_reference(self) -> Manifest:
        """Makes the garbage collector delete the owned objects after the resource; no finalizer is needed for that."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.key.kind,
            "name": self.key.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
