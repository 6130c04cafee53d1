"""The chart's values.yaml and their reference page, both from values.schema.json, so that the three cannot disagree."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def example_values(schema: Schema) -> str:
    """values.yaml: every value with its default, below its description."""
    head = "# Generated from values.schema.json by `make generate`; edit the schema instead.\n"
    return head + "".join(_entries(schema, 0))


def _entries(schema: Schema, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, node in _own(schema):
        yield "\n" if depth == 0 else ""
        yield f"{indent}# {node['description']}\n"
        if "default" not in node:
            yield f"{indent}{name}:\n"
            yield from _entries(node, depth + 1)
        else:
            yield f"{indent}{name}: {json.dumps(node['default'], ensure_ascii=False)}\n"


def reference_of_values(schema: Schema) -> str:
    """The reference page of the chart's values."""
    rows = "".join(
        f"| `{path}` | {_type(node)} | `{json.dumps(node['default'])}` | {node['description']} |\n"
        for path, node in _leaves(schema, "")
    )
    return (
        "# Values of the chart marty-operator\n\n"
        "<!-- Generated from values.schema.json by `make generate`; edit the schema instead. -->\n\n"
        "Helm refuses a value that is not listed here.\n\n"
        f"| value | type | default | meaning |\n|---|---|---|---|\n{rows}"
    )


def _leaves(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    for name, node in _own(schema):
        if "default" not in node:
            yield from _leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", node


def _own(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The values of this chart: those with a default, and the groups of such."""
    return ((name, node) for name, node in schema["properties"].items() if "default" in node or "properties" in node)


def _type(node: Schema) -> str:
    return " \\| ".join(f"`{value}`" for value in node["enum"]) if "enum" in node else str(node["type"])
