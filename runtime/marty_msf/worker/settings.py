"""What a worker process gets from its environment: secrets and its own identity, never the resource's configuration."""

import secrets
import socket
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Settings(BaseModel):
    """The environment variables of `marty run`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: MARTY_DATABASE_URL: the team's Postgres, from the secret that spec.database.urlSecretRef names.
    database_url: SecretStr
    #: MARTY_TOKEN: bearer token for everything on HTTP that tells or changes state.
    token: SecretStr = Field(min_length=16)
    #: MARTY_POD_NAME: first half of this process's identity in leases.
    pod_name: str
    #: MARTY_HTTP_HOST and MARTY_HTTP_PORT: where /healthz, /readyz, /metrics, /status and the role's own routes are.
    http_host: str = "0.0.0.0"  # noqa: S104 - a pod is reached through its own address
    http_port: int = Field(8080, ge=0, le=65535)
    #: MARTY_LOG_LEVEL
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises pydantic.ValidationError that names the fields, never their values."""
        prefix = "MARTY_"
        given = {
            name: environment[prefix + name.upper()]
            for name in cls.model_fields
            if prefix + name.upper() in environment
        }
        return cls.model_validate({"pod_name": socket.gethostname(), **given})

    def holder(self) -> str:
        """A new identity for leases: a restarted container is another holder than the one before."""
        return f"{self.pod_name}/{secrets.token_hex(4)}"
