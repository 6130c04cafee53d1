"""What the operator is told from outside. The only module that reads the environment."""

import os
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marty_msf.core.errors import InvalidDefinition

PREFIX = "MARTY_"


class Settings(BaseModel):
    """Read once in `__main__`; every field is the variable `MARTY_<FIELD>`, an unset variable keeps the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Image of the worker pods and of the migration Job.
    runtime_image: str = Field(min_length=1, max_length=1024)
    #: Empty leaves the choice to Kubernetes (Always for `:latest`, else IfNotPresent).
    runtime_image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    #: Comma list; empty watches all namespaces.
    watch_namespaces: str = ""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: Where the operator itself runs, and where it keeps the key of its hashes.
    namespace: str = Field("default", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    http_host: str = "0.0.0.0"  # noqa: S104  # the kubelet and Prometheus reach the pod from outside it
    health_port: int = Field(8081, ge=1, le=65535)
    metrics_port: int = Field(8080, ge=1, le=65535)
    #: Resources reconciled at the same time: enough to hide the API server's latency, few enough to leave it in peace.
    concurrency: int = Field(8, ge=1, le=64)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The watched namespaces; empty means all."""
        return tuple(sorted({part.strip() for part in self.watch_namespaces.split(",") if part.strip()}))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Raises InvalidDefinition that names the variable."""
        values = {
            field: environment[variable]
            for field in cls.model_fields
            if (variable := PREFIX + field.upper()) in environment
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise InvalidDefinition(
                PREFIX + field.upper(),
                f"{first['msg']} (it is {values.get(field)!r})",
                "set it in the environment of the operator's Deployment",
            ) from None
