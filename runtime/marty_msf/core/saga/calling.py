"""How a step is called, as values of its definition."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from marty_msf.core.expressions import Expression
from marty_msf.core.saga.url_template import Template


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A key of a Secret, which the pod sees as a file; never its value."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class SecretHeader:
    """A request header whose whole value is in a Secret."""

    header: str
    secret: SecretFile


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request. Without `url` (`undo_url`) it goes to http://<service>/<action> (<compensation>)."""

    url: Template | None = None
    undo_url: Template | None = None
    #: Of the step and of its compensation; bodies go along with every method but GET.
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: tuple[SecretHeader, ...] = ()
    #: Certificates that are trusted in place of the system's.
    ca: SecretFile | None = None


@dataclass(frozen=True, slots=True)
class PythonCall:
    """A function that is registered under this name in the worker's process."""

    handler: str


@dataclass(frozen=True, slots=True)
class KafkaCall:
    """A command message, answered by a reply message on another topic."""

    command_topic: str
    reply_topic: str
    #: Gives the command's key; without it the instance's id is the key.
    key: Expression | None = None


CallForm: TypeAlias = HttpCall | PythonCall | KafkaCall
DEFAULT_CALL: Final = HttpCall()


@dataclass(frozen=True, slots=True)
class Breaker:
    """When calls to a step's service are held back."""

    #: Failures in a row.
    failure_threshold: int
    open_seconds: int
