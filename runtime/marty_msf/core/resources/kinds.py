"""The table of kinds: how each is called in Kubernetes, in object names, on the command line and in the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.resources.saga import SagaSpec


class Role(StrEnum):
    """What a worker process does: the argument of `marty run` and the suffix of object names."""

    SAGA = "saga"
    RELAY = "relay"
    PROJECTION = "projection"


@dataclass(frozen=True, slots=True)
class Kind:
    """One custom resource kind."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    role: Role
    spec: type[SagaSpec] | type[OutboxRelaySpec] | type[ProjectionSpec]


KINDS: Final[Mapping[str, Kind]] = {
    "Saga": Kind("Saga", "sagas", "saga", (), Role.SAGA, SagaSpec),
    "OutboxRelay": Kind("OutboxRelay", "outboxrelays", "outboxrelay", ("obr",), Role.RELAY, OutboxRelaySpec),
    "Projection": Kind("Projection", "projections", "projection", ("proj",), Role.PROJECTION, ProjectionSpec),
}
