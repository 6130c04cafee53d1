"""The table of kinds: how each is called in Kubernetes, in object names, on the command line and in the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.status import OutboxRelayStatus, ProjectionStatus, SagaStatus


class Role(StrEnum):
    """What a worker process does: the argument of `marty run` and the suffix of object names."""

    SAGA = "saga"
    RELAY = "relay"
    PROJECTION = "projection"


@dataclass(frozen=True, slots=True)
class Kind:
    """One custom resource kind. `purpose` is what `kubectl explain` says of it."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    role: Role
    spec: type[SagaSpec] | type[OutboxRelaySpec] | type[ProjectionSpec]
    status: type[SagaStatus] | type[OutboxRelayStatus] | type[ProjectionStatus]
    purpose: str


KINDS: Final[Mapping[str, Kind]] = {
    kind.kind: kind
    for kind in (
        Kind(
            kind="Saga",
            plural="sagas",
            singular="saga",
            short_names=(),
            role=Role.SAGA,
            spec=SagaSpec,
            status=SagaStatus,
            purpose="A saga type: steps that span services, each undone in reverse when a later one fails."
            " Its executions live in Postgres.",
        ),
        Kind(
            kind="OutboxRelay",
            plural="outboxrelays",
            singular="outboxrelay",
            short_names=("obr",),
            role=Role.RELAY,
            spec=OutboxRelaySpec,
            status=OutboxRelayStatus,
            purpose="Publishes the events of a Postgres outbox to Kafka: each one whose transaction committed,"
            " in order per aggregate.",
        ),
        Kind(
            kind="Projection",
            plural="projections",
            singular="projection",
            short_names=("proj",),
            role=Role.PROJECTION,
            spec=ProjectionSpec,
            status=ProjectionStatus,
            purpose="Keeps a read-model table in step with events: rows and position change in one transaction.",
        ),
    )
}
