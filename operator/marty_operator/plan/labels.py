"""Labels and annotations of everything the operator makes, and the selectors that find it again."""

from typing import Final

from marty_msf.core.resources.kinds import KINDS
from marty_operator.resource import Key

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OPERATOR: Final = "marty-operator"
KIND: Final = "marty.dev/kind"
NAME: Final = "marty.dev/name"
CONFIG_REVISION: Final = "marty.dev/config-revision"
SECRETS_HASH: Final = "marty.dev/secrets-hash"
CODE_HASH: Final = "marty.dev/code-hash"

#: Finds everything of ours, in watches and in the shared list of pods.
OURS: Final = f"{MANAGED_BY}={OPERATOR}"


def selector(key: Key) -> dict[str, str]:
    """The labels that select the worker pods of one resource. Immutable in a Deployment, so never add to them."""
    return {MANAGED_BY: OPERATOR, KIND: key.kind, NAME: label_value(key.name)}


def selector_text(key: Key) -> str:
    """The same for `status.selector`, which autoscalers read."""
    return ",".join(f"{name}={value}" for name, value in sorted(selector(key).items()))


def labels(key: Key) -> dict[str, str]:
    """All labels of an object that belongs to one resource."""
    return {
        **selector(key),
        "app.kubernetes.io/name": f"marty-{KINDS[key.kind].role.value}",
        "app.kubernetes.io/instance": label_value(key.name),
        "app.kubernetes.io/part-of": "marty",
    }


def label_value(name: str) -> str:
    """The schema keeps resource names within the 63 characters of a label value; this only asserts it."""
    if len(name) > 63:
        raise ValueError(f"metadata.name {name!r} is longer than a label value may be: shorten it to 63 characters")
    return name
