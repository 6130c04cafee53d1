"""What the library takes from the environment when the caller gives nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from marty_msf.core.errors import InvalidDefinition
from marty_msf.patterns.arguments import DATABASE_URL

#: Data of the embedded PostgreSQL, of root and of everybody else.
_OF_ROOT: Final = Path("/var/lib/marty/postgres")
_OF_USERS: Final = Path("marty/postgres")


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment variables of the library."""

    #: MARTY_DATABASE_URL: the Postgres with the schema `marty`; None: the embedded one. Empty: a mistake, see `database`.
    database_url: str | None
    #: MARTY_DATA_DIRECTORY: where the embedded PostgreSQL keeps its data.
    data_directory: Path
    #: MARTY_KAFKA_BOOTSTRAP_SERVERS: `host:port,…` of Kafka; None where nothing is consumed.
    kafka_bootstrap_servers: str | None
    #: MARTY_SERVICES: `name=host:port,…` of services whose names are no addresses here.
    services: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """An empty variable counts as one that is not set, but for the database's."""
        directory = environment.get("MARTY_DATA_DIRECTORY")
        return cls(
            database_url=environment.get("MARTY_DATABASE_URL"),
            data_directory=Path(directory) if directory else _default(environment),
            kafka_bootstrap_servers=environment.get("MARTY_KAFKA_BOOTSTRAP_SERVERS") or None,
            services=_services(environment.get("MARTY_SERVICES", "")),
        )

    def database(self) -> str | None:
        """The URL, for those who were given none. Raises InvalidDefinition."""
        if self.database_url is not None and not self.database_url.strip():
            # Most likely a secret is missing: with the embedded database in its place, all would seem well.
            raise InvalidDefinition(
                "MARTY_DATABASE_URL",
                "is set and empty",
                f"set it to {DATABASE_URL}, or unset it to use the embedded PostgreSQL",
            )
        return self.database_url


def from_process() -> Settings:
    """The settings of this process."""
    return Settings.from_environment(os.environ)


def _services(text: str) -> Mapping[str, str]:
    """Raises InvalidDefinition."""
    services = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = part.partition("=")
        if not (name and equals and address):
            raise InvalidDefinition("MARTY_SERVICES", f"{part!r} is no name=host:port", "correct it")
        services[name] = address
    return services


def _default(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return _OF_ROOT
    data = environment.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / _OF_USERS
