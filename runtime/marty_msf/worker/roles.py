"""Which class does the work of which configuration. Each is imported only by the process that runs it."""

from importlib import import_module
from typing import Final, cast

from marty_msf.core.resources.kinds import Role as RoleName
from marty_msf.core.worker_config import ProjectionConfig, RelayConfig, SagaConfig
from marty_msf.worker.role import Context, Role

CLASSES: Final = {
    RoleName.SAGA: ("marty_msf.worker.saga.role", "SagaRole"),
    RoleName.RELAY: ("marty_msf.worker.relay.role", "RelayRole"),
    RoleName.PROJECTION: ("marty_msf.worker.projection.role", "ProjectionRole"),
}


def make(context: Context, config: SagaConfig | RelayConfig | ProjectionConfig) -> Role:
    """The role for a configuration; does no I/O yet. Raises InvalidDefinition."""
    module, name = CLASSES[config.role]
    return cast(Role, getattr(import_module(module), name)(context, config))
