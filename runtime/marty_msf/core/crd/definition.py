"""The whole CustomResourceDefinition of a kind, as a plain document."""

from typing import Any, Final

from marty_msf.core.crd.columns import COLUMNS
from marty_msf.core.crd.structural import structural
from marty_msf.core.resources.kinds import Kind
from marty_msf.core.resources.spec import CATEGORY, GROUP, VERSION

#: Names of objects, of a Service among them, and label values are made from the resource's name.
_NAME_RULE: Final = {
    "rule": "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "message": "metadata.name is not allowed: use at most 63 lower-case letters, digits and '-', a letter first",
    "messageExpression": """'metadata.name "' + self.metadata.name + '" is not allowed: """
    """use at most 63 lower-case letters, digits and \\'-\\', a letter first'""",
}


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition. Raises NotStructural when the models say what a CRD cannot."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "categories": [CATEGORY],
            }
            | ({"shortNames": list(kind.short_names)} if kind.short_names else {}),
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [column.render() for column in COLUMNS[kind.kind]],
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "schema": {"openAPIV3Schema": _schema(kind)},
                }
            ],
        },
    }


def _schema(kind: Kind) -> dict[str, Any]:
    return {
        "type": "object",
        "description": kind.purpose,
        "required": ["spec"],
        "x-kubernetes-validations": [_NAME_RULE],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": kind.kind},
            "metadata": {"type": "object"},
            "spec": structural(kind.spec, "spec"),
            "status": structural(kind.status, "status", defaults=False),
        },
    }
