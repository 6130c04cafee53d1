"""What the operator tells a worker: rendered to JSON in a ConfigMap, parsed by `marty run` with the same models.

Secrets never stand here; they reach the worker as environment variables (see `marty_msf.worker.settings`) and as files.
"""

import hashlib
import json
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from marty_msf.core.resources.kinds import Role
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.spec import Model

#: Where a pod finds the Secrets that its spec names, as `<name of the Secret>/<key>`. They change when the Secret does.
SECRETS_DIRECTORY: Final = "/etc/marty-secrets"
#: Where a pod finds the files of spec.runtime.codeConfigMapRef.
CODE_DIRECTORY: Final = "/etc/marty-code"


class _Config(Model):
    namespace: str = Field(min_length=1, max_length=63)
    name: str = Field(min_length=1, max_length=253)

    @property
    def resource(self) -> str:
        """Identity in the database: `namespace/name`, so that a recreated resource resumes its work."""
        return f"{self.namespace}/{self.name}"


class SagaConfig(_Config):
    role: Literal[Role.SAGA] = Role.SAGA
    spec: SagaSpec


class RelayConfig(_Config):
    role: Literal[Role.RELAY] = Role.RELAY
    spec: OutboxRelaySpec


class ProjectionConfig(_Config):
    role: Literal[Role.PROJECTION] = Role.PROJECTION
    spec: ProjectionSpec


WorkerConfig = Annotated[SagaConfig | RelayConfig | ProjectionConfig, Field(discriminator="role")]
_ADAPTER: TypeAdapter[SagaConfig | RelayConfig | ProjectionConfig] = TypeAdapter(WorkerConfig)


def render(config: SagaConfig | RelayConfig | ProjectionConfig) -> str:
    """The configuration as JSON with sorted, camelCase keys: equal configurations give equal text."""
    # Nulls stay: in steps[].data they belong to the user.
    return json.dumps(_ADAPTER.dump_python(config, mode="json", by_alias=True), indent=2, sort_keys=True)


def parse(text: str | bytes) -> SagaConfig | RelayConfig | ProjectionConfig:
    """The inverse of `render`. Raises pydantic.ValidationError or InvalidDefinition."""
    return _ADAPTER.validate_json(text)


def revision(config: SagaConfig | RelayConfig | ProjectionConfig) -> str:
    """Twelve hex digits that name exactly this configuration; workers report it, the operator compares."""
    return hashlib.sha256(render(config).encode()).hexdigest()[:12]
