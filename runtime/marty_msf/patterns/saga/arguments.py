"""Arguments of an orchestrator's calls, checked. Pure but for new business keys. Everything raises InvalidDefinition."""

import re
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.saga_step import HANDLER
from marty_msf.core.resources.spec import SERVICE
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.core.user_values import keepable
from marty_msf.patterns.arguments import MOST_HOURS, whole_number

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
MOST_WORKERS: Final = 1000
#: Beside the saga's type, which is kept with it.
KEY_CHARACTERS: Final = 400


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
    """Longest wait for one call's answer; its upper bound is the definition's."""
    if isinstance(seconds, int) and not isinstance(seconds, bool) and seconds >= 1:
        return seconds
    raise InvalidDefinition("timeout_per_step", f"{seconds!r} is no whole number of seconds", "give 1 or more")


def step_name(name: object) -> str:
    """Of a handler."""
    if isinstance(name, str) and re.match(HANDLER, name):
        return name
    raise InvalidDefinition("step_name", f"{name!r} is no step's name", "give the step_name of the steps it is for")


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


def service_addresses(services: Mapping[str, str]) -> Mapping[str, str]:
    """`host:port` by the name that steps are called by: with hyphens for underscores."""
    addresses = {}
    for name, address in services.items():
        if not isinstance(address, str) or not re.match(SERVICE, address):
            raise InvalidDefinition(
                f"services[{name!r}]", f"{address!r} is no address", "give host or host:port, without http://"
            )
        addresses[name.replace("_", "-")] = address
    return addresses
