"""Arguments of an orchestrator's calls, checked. Pure but for new business keys. Everything raises InvalidDefinition."""

import re
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.saga_step import HANDLER
from marty_msf.core.resources.saga_step import NAME as STEP
from marty_msf.core.resources.spec import SERVICE
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.core.user_values import keepable
from marty_msf.patterns.arguments import MOST_HOURS, whole_number

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
MOST_WORKERS: Final = 1000
#: Beside the saga's type, which is kept with it.
KEY_CHARACTERS: Final = 400
STEP_CHARACTERS: Final = 63
UNDO_CHARACTERS: Final = 200
#: The longest that a definition takes, an hour.
MOST_STEP_SECONDS: Final = 3600


def orchestrator_name(name: object) -> str:
    """The part of a name behind which all processes of an orchestrator stand together."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    raise InvalidDefinition("name", f"{name!r} is no name", "use letters, digits, '.', '_' and '-', at most 200")


def worker_count(count: object) -> int:
    """Calls at once."""
    return whole_number("worker_count", count, MOST_WORKERS)


def retention_hours(hours: object) -> int:
    """How long sagas are kept after their end."""
    return whole_number("retention_hours", hours, MOST_HOURS)


def step_seconds(seconds: object) -> int:
    """Longest wait for one call's answer."""
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 1 <= seconds <= MOST_STEP_SECONDS:
        return seconds
    problem = f"{seconds!r} is no whole number of seconds from 1 to {MOST_STEP_SECONDS}"
    raise InvalidDefinition("timeout_per_step", problem, "correct it")


def step_name(name: object, path: str = "step_name") -> str:
    """Of a step, and so of the handler that does it."""
    if isinstance(name, str) and len(name) <= STEP_CHARACTERS and re.fullmatch(STEP, name):
        return name
    raise InvalidDefinition(
        path,
        f"{name!r} is no step's name",
        f"use lower-case letters, digits and '_', a letter first, at most {STEP_CHARACTERS} characters",
    )


def undo_name(name: object) -> str:
    """Of a compensation handler: a step's name, or what steps call their compensation, which is a path."""
    if isinstance(name, str) and len(name) <= UNDO_CHARACTERS and re.fullmatch(HANDLER, name):
        return name
    remedy = "give the step_name, or the compensation, of the steps that it undoes"
    raise InvalidDefinition("step_name", f"{name!r} names no compensation", remedy)


def own_key(key: object) -> str:
    """The business key given, or a new one."""
    if key is None:
        return str(uuid4())
    if isinstance(key, str) and 1 <= len(key) <= KEY_CHARACTERS and keepable(key):
        return key
    raise InvalidDefinition("business_key", f"{key!r} cannot be kept", f"give text of 1 to {KEY_CHARACTERS} characters")


def start_context(context: object) -> Mapping[str, Any]:
    """What a saga starts with; whether its values are JSON is seen when it is written."""
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise InvalidDefinition("context", f"is a {type(context).__name__}", "give a mapping")
    if OWN_DATA in context:
        raise InvalidDefinition(f"context.{OWN_DATA}", "is a reserved name", "rename the member")
    return context


def service_addresses(services: object) -> Mapping[str, str]:
    """`host:port` by the name that steps are called by: with hyphens for underscores."""
    if not isinstance(services, Mapping):
        raise InvalidDefinition(
            "services", f"is a {type(services).__name__}", 'give a mapping such as {"payment": "localhost:8080"}'
        )
    addresses = {}
    for name, address in services.items():
        if not isinstance(name, str):
            raise InvalidDefinition(f"services[{name!r}]", "is no name", "give the service_name of the steps as text")
        if not isinstance(address, str) or not re.match(SERVICE, address):
            raise InvalidDefinition(
                f"services[{name!r}]", f"{address!r} is no address", "give host or host:port, without http://"
            )
        addresses[name.replace("_", "-")] = address
    return addresses
