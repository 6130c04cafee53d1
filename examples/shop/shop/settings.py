"""Everything a service reads from its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


class MissingSetting(Exception):
    """An environment variable that the service cannot do without."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One service process."""

    #: Holds the password, so it never shows in a log.
    database_url: str = field(repr=False)
    host: str
    port: int
    #: Open connections at most; three services with two pods each stay far below Postgres' default of 100.
    pool_size: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read DATABASE_URL (needed), HTTP_HOST, HTTP_PORT and POOL_SIZE."""
        values = os.environ if environment is None else environment
        if not values.get("DATABASE_URL"):
            raise MissingSetting("DATABASE_URL is not set: give it the service's connection URL (postgresql://…)")
        return cls(
            database_url=values["DATABASE_URL"],
            host=values.get("HTTP_HOST", "0.0.0.0"),  # noqa: S104 - a pod serves its own address only
            port=int(values.get("HTTP_PORT", "8080")),
            pool_size=int(values.get("POOL_SIZE", "10")),
        )
