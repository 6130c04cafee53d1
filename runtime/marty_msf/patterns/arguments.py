"""Arguments of the library's classes, checked where they are given. Each raises InvalidDefinition with path, value and remedy."""

import math
import re
from pathlib import Path
from typing import Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import TOPIC

TOPIC_CHARACTERS: Final = 249
#: What one looks like.
DATABASE_URL: Final = "postgresql://user:password@host:port/database"
#: A hundred years.
MOST_HOURS: Final = 876_000


def whole_number(path: str, value: object, most: int, least: int = 1) -> int:
    """A number that counts something."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise InvalidDefinition(path, f"{value!r} is no whole number from {least} to {most}", "correct it")


def seconds_above_zero(path: str, value: object) -> float:
    """How long something may take."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    raise InvalidDefinition(path, f"{value!r} is no number of seconds above 0", "correct it")


def topic_name(path: str, value: object, otherwise: str = "") -> str:
    """A name that Kafka takes; `otherwise` is added to the remedy."""
    if isinstance(value, str) and len(value) <= TOPIC_CHARACTERS and re.fullmatch(TOPIC, value):
        return value
    remedy = f"use 1 to {TOPIC_CHARACTERS} letters, digits, dots, underscores and hyphens{otherwise}"
    raise InvalidDefinition(path, f"{value!r} is no Kafka topic name", remedy)


def database_url(value: object) -> str | None:
    """The database of a class; None where it is left out. Its text is never shown: it may hold a password."""
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    # Most likely of a secret that is missing: what takes its place must not be another database.
    problem = "is empty" if isinstance(value, str) else f"is a {type(value).__name__}, no text"
    raise InvalidDefinition("database_url", problem, f"give {DATABASE_URL}, or leave it out (None)")


def data_directory(value: object) -> Path | None:
    """Where the embedded PostgreSQL keeps its data; None where it is left out."""
    if value is None or isinstance(value, Path):
        return value
    if isinstance(value, str) and value:
        return Path(value)
    raise InvalidDefinition(
        "data_directory", f"{value!r} is no path", "give a Path or its text, or leave it out (None)"
    )


def must_be(path: str, value: object, kind: type, remedy: str) -> None:
    """An object of one of our classes."""
    if not isinstance(value, kind):
        raise InvalidDefinition(path, f"is a {type(value).__name__}, no {kind.__name__}", remedy)
