"""The reference of a kind for people, in Markdown, from its CustomResourceDefinition: every field with its bounds."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

_HEADER: Final = "| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n"


def reference(definition: Mapping[str, Any]) -> str:
    """One page: columns of `kubectl get`, the fields of spec and status, and the rules the API server enforces."""
    names = definition["spec"]["names"]
    version = definition["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    short = "".join(f", `{name}`" for name in names.get("shortNames", ()))
    called = f"In kubectl: `{names['plural']}`, `{names['singular']}`{short}; all kinds: `{names['categories'][0]}`."
    return "\n".join(
        [
            f"# {names['kind']}",
            "",
            "<!-- Generated from the models by `make generate`; edit the models instead. -->",
            "",
            schema["description"],
            "",
            f"`apiVersion: {definition['spec']['group']}/{version['name']}`, `kind: {names['kind']}`. {called}",
            "",
            "## spec",
            "",
            _table(schema["properties"]["spec"], "spec"),
            "## Rules",
            "",
            "The API server refuses a resource that breaks one of these.",
            "",
            *(f"- `{path}`: {_cell(message)}" for path, message in _rules(schema, "")),
            "",
            "## status",
            "",
            _table(schema["properties"]["status"], "status"),
            "## Columns of kubectl get",
            "",
            "| column | shown | meaning |\n|---|---|---|",
            *(
                f"| {column['name'].upper()} | {'with `-o wide`' if column.get('priority') else 'always'}"
                f" | {column['description']} |"
                for column in version["additionalPrinterColumns"]
            ),
            "",
        ]
    )


def _table(schema: Mapping[str, Any], path: str) -> str:
    return _HEADER + "".join(
        f"| `{field}`{' **required**' if required else ''} | {_type(node)} | {_default(node)} | {_bounds(node)}"
        f" | {_cell(node.get('description', ''))} |\n"
        for field, node, required in _fields(schema, path)
    )


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    for name, node in schema.get("properties", {}).items():
        field = f"{path}.{name}"
        yield field, node, name in schema.get("required", ())
        yield from _fields(*_inside(node, field))


def _inside(node: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], str]:
    """The schema whose properties stand below a node, through lists and maps, and the path to it."""
    while "properties" not in node:
        if "items" in node:
            node, path = node["items"], f"{path}[]"
        elif "additionalProperties" in node:
            node, path = node["additionalProperties"], f"{path}.*"
        else:
            break
    return node, path


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"{path}{rule.get('fieldPath', '')}".removeprefix(".") or "metadata.name", rule["message"]
    for name, node in schema.get("properties", {}).items():
        yield from _rules(node, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from _rules(schema[key], f"{path}{mark}")


def _type(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    return "any object" if node.get("x-kubernetes-preserve-unknown-fields") else str(node["type"])


def _default(node: Mapping[str, Any]) -> str:
    return f"`{json.dumps(node['default'])}`" if "default" in node else ""


def _bounds(node: Mapping[str, Any]) -> str:
    texts = []
    for low, high, what in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if low in node and high in node:
            texts.append(f"{node[low]} to {node[high]}{what}")
        elif high in node:
            texts.append(f"at most {node[high]}{what}")
        elif low in node:
            texts.append(f"at least {node[low]}{what}")
    if "pattern" in node:
        texts.append(f"`{_cell(node['pattern'])}`")
    return ", ".join(texts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
