"""From pydantic's JSON schema to a Kubernetes structural schema.

The API server accepts a small part of JSON schema, and prices CEL rules by the bounds it finds. So everything here is
strict: a construct that is not listed, or a string, list or map without a bound, raises `NotStructural`.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from marty_msf.core.errors import MartyError

Schema = dict[str, Any]

#: Keys that any node may have and that are copied as they are.
_ANYWHERE: Final = ("description", "default", "x-kubernetes-validations")
#: Keys of each type that are copied as they are.
_COPIED: Final[Mapping[str, tuple[str, ...]]] = {
    "string": ("minLength", "maxLength", "pattern", "enum", "format"),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "boolean": (),
    "array": ("minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    "object": ("minProperties", "maxProperties", "x-kubernetes-preserve-unknown-fields"),
}
#: Keys of each type that `_OBJECT_SHAPES`, `_number` and the array branch translate.
_TRANSLATED: Final[Mapping[str, tuple[str, ...]]] = {
    "string": (),
    "integer": ("exclusiveMinimum", "exclusiveMaximum"),
    "number": ("exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "array": ("items",),
    "object": ("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
}


class NotStructural(MartyError):
    """A model uses something that a CRD cannot say, or leaves out a bound."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}: {remedy}")


def structural(model: type[BaseModel], path: str, *, defaults: bool = True) -> Schema:
    """The structural schema of one model; `path` (as in `spec`) only names the place in errors.

    `defaults=False` leaves defaults out, for a status: nobody but the operator writes it, and a default there would
    look like an observation.
    """
    source = model.model_json_schema(by_alias=True)
    return _Converter(source.pop("$defs", {}), defaults).node(source, path, ())


class _Converter:
    """One pass over one model's JSON schema."""

    def __init__(self, definitions: Mapping[str, Schema], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def node(self, source: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        source, parents = self._resolve(source, path, parents)
        kind = str(source.get("type"))
        if kind not in _COPIED:
            raise NotStructural(path, f"type {kind} has no structural form", "use one JSON type")
        known = {"type", "title", *_ANYWHERE, *_COPIED[kind], *_TRANSLATED[kind]}
        if unknown := sorted(source.keys() - known):
            raise NotStructural(
                path, f"a {kind} has {unknown}", "teach marty_msf.core.crd.structural or change the model"
            )
        copied = {key: source[key] for key in (*_ANYWHERE, *_COPIED[kind]) if key in source}
        if not self._defaults or copied.get("default", ...) is None:
            copied.pop("default", None)
        result = {"type": kind, **copied}
        match kind:
            case "object":
                result |= self._object(source, path, parents)
            case "array":
                result["items"] = self.node(source.get("items", {}), f"{path}[]", parents)
            case "integer" | "number":
                result |= _number(source)
        _require_bound(result, path)
        if "default" in result:
            result["default"] = _plain(result["default"])
        return result

    def _resolve(self, source: Schema, path: str, parents: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """Put definitions in the place of references and drop `null` from unions; what stands beside them wins."""
        while True:
            if "$ref" in source:
                name = source["$ref"].removeprefix("#/$defs/")
                if name in parents:
                    raise NotStructural(path, f"{name} contains itself", "a CRD cannot recurse: bound the depth")
                parents = (*parents, name)
                source = self._definitions[name] | {key: value for key, value in source.items() if key != "$ref"}
            elif "anyOf" in source:
                others = [option for option in source["anyOf"] if option != {"type": "null"}]
                if len(others) != 1 or len(source["anyOf"]) != 2:
                    raise NotStructural(path, "is a union", "use one type, or one type and None")
                source = others[0] | {key: value for key, value in source.items() if key != "anyOf"}
            elif "const" in source:
                # pydantic's form of a set of one; a CRD has no `const`.
                source = {"enum": [source["const"]], **{key: value for key, value in source.items() if key != "const"}}
            else:
                return source, parents

    def _object(self, source: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        if "properties" in source:
            return self._fields(source, path, parents)
        if source.get("x-kubernetes-preserve-unknown-fields"):
            return {}
        return self._map(source, path, parents)

    def _fields(self, source: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        if source.get("additionalProperties", False) is not False:
            raise NotStructural(path, "has fields and free keys", "use a model or a map")
        properties = {name: self.node(value, f"{path}.{name}", parents) for name, value in source["properties"].items()}
        for name, value in properties.items():
            if "description" not in value:
                raise NotStructural(f"{path}.{name}", "has no description", "describe it with Field(description=…)")
        required = source.get("required")
        return ({"required": required} if required else {}) | {"properties": properties}

    def _map(self, source: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        patterns = source.get("patternProperties", {})
        values = [source["additionalProperties"]] if "additionalProperties" in source else list(patterns.values())
        if len(values) != 1 or not isinstance(values[0], dict):
            raise NotStructural(path, "is a map without one value type", "use dict[Name, Value]")
        rules = [*source.get("x-kubernetes-validations", []), *_key_rules(source, path)]
        return {"additionalProperties": self.node(values[0], f"{path}.*", parents), "x-kubernetes-validations": rules}


def _key_rules(source: Schema, path: str) -> list[Schema]:
    """Structural schemas say nothing about the keys of a map, so CEL does."""
    names = source.get("propertyNames", {})
    if "maxLength" not in names:
        raise NotStructural(path, "has keys without a bound", "annotate the key type with max_length")
    shortest, longest = names.get("minLength", 0), names["maxLength"]
    wrong = f"size(k) < {shortest} || size(k) > {longest}"
    wanted = f"between {shortest} and {longest} characters long"
    if pattern := next(iter(source.get("patternProperties", {})), None):
        wrong += f" || !k.matches('{pattern}')"
        wanted += f" and match {pattern}"
    return [
        {
            "rule": f"!self.exists(k, {wrong})",
            "message": f"a name is not allowed: it must be {wanted}",
            "messageExpression": f"""'name "' + self.filter(k, {wrong})[0] + '" is not allowed: it must be {wanted}'""",
        }
    ]


def _number(source: Schema) -> Schema:
    """JSON schema has numeric exclusive bounds; a CRD has a bound and a flag, and for integers neither is needed."""
    result: Schema = {"format": "int64"} if source["type"] == "integer" else {}
    for exclusive, bound, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if exclusive in source and source["type"] == "integer":
            result[bound] = source[exclusive] + step
        elif exclusive in source:
            result |= {bound: source[exclusive], exclusive: True}
    return result


def _require_bound(schema: Schema, path: str) -> None:
    match schema:
        case {"type": "string"} if "maxLength" not in schema and "enum" not in schema:
            raise NotStructural(path, "is a string without a bound", "give it max_length")
        case {"type": "array"} if "maxItems" not in schema:
            raise NotStructural(path, "is a list without a bound", "give it max_length")
        case {"type": "object"} if "properties" not in schema and "maxProperties" not in schema:
            raise NotStructural(path, "is a map without a bound", "give it max_length")


def _plain(value: Any) -> Any:
    """A default with sorted keys and whole numbers as integers, so that equal models give equal text."""
    match value:
        case dict():
            return {key: _plain(value[key]) for key in sorted(value)}
        case list():
            return [_plain(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
