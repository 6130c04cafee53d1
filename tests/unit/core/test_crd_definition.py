"""The definitions of the three kinds hold every field of their models, within bounds, and the files agree with them."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import generate
from marty_msf.core.crd.definition import definition
from marty_msf.core.crd.reference import reference
from marty_msf.core.resources.kinds import KINDS, Kind
from marty_msf.core.resources.spec import Model

Schema = dict[str, Any]
#: A part of a JSONPath of ours: a name, and after it perhaps a condition's type.
STEP = re.compile(r"\.(\w+)(\[\?\(@\.type==\"Ready\"\)\])?")
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def schema(kind: Kind) -> Schema:
    return dict(definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def nodes(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}{mark}")


@each_kind
def test_every_field_of_the_models_is_in_the_definition(kind: Kind) -> None:
    properties = schema(kind)["properties"]

    for part, model in (("spec", kind.spec), ("status", kind.status)):
        source = model.model_json_schema()
        assert properties[part]["properties"].keys() == source["properties"].keys()
        found = {frozenset(node["properties"]) for _, node in nodes(properties[part], part) if "properties" in node}
        for inner in source.get("$defs", {}).values():
            assert "properties" not in inner or frozenset(inner["properties"]) in found


@each_kind
def test_the_schema_is_structural_and_bounded(kind: Kind) -> None:
    for path, node in nodes(schema(kind), ""):
        assert not node.keys() & {"$ref", "anyOf", "oneOf", "allOf", "not", "const", "title", "propertyNames"}, path
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        match node["type"]:
            case "string" if path not in (".apiVersion", ".kind"):
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node, path
            case "object" if "properties" not in node and path != ".metadata":
                assert "maxProperties" in node, path


@each_kind
def test_only_the_data_of_steps_keeps_unknown_fields(kind: Kind) -> None:
    open_paths = [path for path, node in nodes(schema(kind), "") if node.get("x-kubernetes-preserve-unknown-fields")]

    assert open_paths == ([".spec.steps[].data"] if kind.kind == "Saga" else [])


@each_kind
def test_printer_columns_and_scale_point_to_fields(kind: Kind) -> None:
    version = definition(kind)["spec"]["versions"][0]
    scale = version["subresources"]["scale"]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]] + list(scale.values())

    for path in paths:
        if path == ".metadata.creationTimestamp":
            continue
        assert STEP.sub("", path) == "", path
        node = schema(kind)
        for name, condition in STEP.findall(path):
            node = node["properties"][name]
            node = node["items"] if condition else node


@each_kind
def test_conditions_merge_by_type(kind: Kind) -> None:
    conditions = schema(kind)["properties"]["status"]["properties"]["conditions"]

    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@each_kind
def test_every_rule_says_what_to_do(kind: Kind) -> None:
    rules = [rule for _, node in nodes(schema(kind), "") for rule in node.get("x-kubernetes-validations", ())]

    assert rules
    for rule in rules:
        assert ": " in rule["message"], rule["message"]


@each_kind
def test_the_reference_names_every_field_and_rule(kind: Kind) -> None:
    page = reference(definition(kind))

    for path, node in nodes(schema(kind)["properties"]["spec"], "spec"):
        assert path == "spec" or path.endswith(("[]", ".*")) or f"`{path}`" in page
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"].replace("|", "\\|") in page


@each_kind
def test_a_default_is_a_value_that_the_model_accepts(kind: Kind) -> None:
    """What the API server fills in, the operator must be able to read."""
    models = [kind.spec]
    while models:
        for field in models.pop().model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Model):
                models.append(field.annotation)  # type: ignore[arg-type]
                if not field.is_required():
                    value = field.get_default(call_default_factory=True, validated_data={})
                    dumped = value.model_dump(mode="json", by_alias=True, exclude_none=True)
                    assert field.annotation.model_validate(dumped) == value


def test_the_files_in_the_repository_are_fresh() -> None:
    assert generate.drift() == []


def test_drift_of_any_generated_file_is_found_and_mended(tmp_path: Path) -> None:
    source = tmp_path / generate.CHART / "values.schema.json"
    source.parent.mkdir(parents=True)
    shutil.copy(generate.ROOT / generate.CHART / "values.schema.json", source)
    written = generate.write(tmp_path)
    first, second, *_ = written
    (tmp_path / first).write_text("edited by hand")
    (tmp_path / second).unlink()
    (tmp_path / "crds" / "old.yaml").write_text("kind: Old")

    found = generate.drift(tmp_path)

    assert sorted(found) == sorted(
        [f"{first} differs from its source", f"{second} is missing", "crds/old.yaml has no source"]
    )
    assert sorted(generate.write(tmp_path)) == sorted([first, second, Path("crds/old.yaml")])
    assert generate.drift(tmp_path) == []


@each_kind
def test_the_chart_carries_the_same_definition(kind: Kind) -> None:
    name = f"{kind.plural}.consistency.marty.dev.yaml"
    template = (generate.ROOT / generate.CHART / "templates/crds" / name).read_text()
    plain = "".join(line for line in template.splitlines(keepends=True) if "{{" not in line)
    document = yaml.safe_load(plain)
    document["metadata"] = {"name": document["metadata"]["name"]}

    assert document == yaml.safe_load((generate.ROOT / "crds" / name).read_text()) == definition(kind)


def test_the_values_schema_refuses_what_it_does_not_know() -> None:
    """But for what belongs to others: Helm's globals, and the affinity that is handed to Kubernetes as it is."""
    values = json.loads((generate.ROOT / generate.CHART / "values.schema.json").read_text())
    foreign = {".global", ".affinity.nodeAffinity", ".affinity.podAffinity", ".affinity.podAntiAffinity"}

    open_paths = {
        path
        for path, node in nodes(values, "")
        if node.get("type") == "object" and node.get("additionalProperties", True) is True
    }

    assert open_paths == foreign
