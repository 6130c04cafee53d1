"""From the JSON of a resource to its spec model: everything that the API server's schema cannot tell is refused here."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from marty_msf.core import worker_config
from marty_msf.core.definition_check import check_expressions
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kinds import KINDS
from marty_msf.core.resources.spec import RunState
from marty_operator.plan.workload import CONFIG_FILE, Config, Spec
from marty_operator.resource import Key, Manifest


def parse_spec(key: Key, spec: Mapping[str, Any]) -> Spec:
    """Raises InvalidDefinition with the first path that is wrong, the value and the remedy."""
    try:
        parsed = KINDS[key.kind].spec.model_validate(spec)
    except ValidationError as error:
        raise _invalid(error.errors()[0]) from None
    check_expressions(parsed)
    return parsed


def last_good(config_map: Manifest | None) -> Config | None:
    """The configuration that an earlier, valid spec left in its ConfigMap; None when there is none that can be read."""
    text = (config_map or {}).get("data", {}).get(CONFIG_FILE)
    if text is None:
        return None
    try:
        return worker_config.parse(text)
    except (ValidationError, InvalidDefinition):
        return None


def scaled(config: Config, spec: Mapping[str, Any]) -> Spec:
    """The last good spec with the number of pods that the invalid one asks for.

    Scaling and stopping must work just when something is wrong; both are checked by the schema on their own.
    """
    update: dict[str, Any] = {}
    replicas = spec.get("replicas")
    if isinstance(replicas, int) and 0 <= replicas <= 100:
        update["replicas"] = replicas
    if spec.get("state") == RunState.STOPPED:
        update["state"] = RunState.STOPPED
    return config.spec.model_copy(update=update)


def _invalid(error: ErrorDetails) -> InvalidDefinition:
    path = "spec"
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if error["type"] == "missing":
        return InvalidDefinition(path, "is missing", "add it")
    if error["type"] == "extra_forbidden":
        return InvalidDefinition(path, "is no field of this kind", "remove it or correct its name")
    return InvalidDefinition(path, f"{error['input']!r}"[:200] + f": {error['msg']}", "correct it")
