"""What to show when the demo could not go on: conditions that are not as they should be, and pods that are not ready."""

from collections.abc import Mapping, Sequence
from typing import Any

from dev.cluster.errors import ClusterError
from dev.demo.evidence import KINDS
from dev.demo.kubectl import Kubectl
from dev.demo.manifests import NAMESPACE
from dev.demo.target import OPERATOR_NAMESPACE


def diagnosis(kubectl: Kubectl) -> str:
    """Never raises: it is printed beside the error that matters."""
    lines = []
    for what, namespace in ((KINDS, NAMESPACE), ("pods", NAMESPACE), ("pods", OPERATOR_NAMESPACE)):
        try:
            items = kubectl.items(what, namespace)
        except ClusterError as failure:
            lines.append(str(failure))
        else:
            lines += condition_lines(items)
    return "\n".join(lines)


def condition_lines(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """`Saga order-processing Ready=False Reason: message` for each Ready that is not True and each Stalled that is. Pure."""
    return [
        f"  {item['kind']} {item['metadata']['name']} {found['type']}={found['status']} "
        f"{found.get('reason', '')}: {found.get('message', '')}"
        for item in items
        for found in item.get("status", {}).get("conditions", [])
        if (found["type"], found["status"]) in {("Ready", "False"), ("Ready", "Unknown"), ("Stalled", "True")}
    ]
