"""The converter says what a CRD can say, and refuses the rest instead of losing it."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field

from marty_msf.core.crd.structural import NotStructural, Schema, structural
from marty_msf.core.resources.spec import Model, Rule

Name = Annotated[str, Field(min_length=1, max_length=5, pattern="^[a-z]+$")]


class Inner(Model):
    """Inner things."""

    size: int = Field(3, ge=1, le=9, description="How big.")


class Outer(Model):
    """Outer things."""

    inner: Inner = Field(default_factory=lambda: Inner(size=4), description="What is inside.")
    maybe: Inner | None = Field(None, description="What may be inside.")
    share: float = Field(gt=0, lt=1, description="Between the bounds.")
    above: int = Field(gt=2, lt=9, description="Between the bounds.")
    names: list[Name] = Field(max_length=4, description="Some names.")
    words: dict[Name, Name] = Field(max_length=4, description="Some words.")

    RULES: ClassVar[list[Rule]] = [Rule("self.share < 0.9", "too much", "'too ' + 'much'", ".share")]


def fields(model: type[BaseModel]) -> dict[str, Schema]:
    return dict(structural(model, "spec")["properties"])


def test_a_reference_is_inlined_and_the_fields_own_words_win() -> None:
    assert fields(Outer)["inner"] == {
        "type": "object",
        "description": "What is inside.",
        "default": {"size": 4},
        "properties": {
            "size": {
                "type": "integer",
                "format": "int64",
                "description": "How big.",
                "default": 3,
                "minimum": 1,
                "maximum": 9,
            }
        },
    }


def test_an_optional_field_is_simply_not_required() -> None:
    schema = structural(Outer, "spec")

    assert "maybe" not in schema["required"]
    assert "default" not in schema["properties"]["maybe"]
    assert schema["properties"]["maybe"]["properties"] == schema["properties"]["inner"]["properties"]


def test_exclusive_bounds_take_the_form_of_a_crd() -> None:
    share, above = fields(Outer)["share"], fields(Outer)["above"]

    assert share == {
        "type": "number",
        "description": "Between the bounds.",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }
    assert (above["minimum"], above["maximum"]) == (3, 8)
    assert not {"exclusiveMinimum", "exclusiveMaximum"} & above.keys()


def test_the_keys_of_a_map_are_held_by_a_rule() -> None:
    words = fields(Outer)["words"]

    assert words["additionalProperties"] == {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$"}
    assert words["maxProperties"] == 4
    [rule] = words["x-kubernetes-validations"]
    assert rule["rule"] == "!self.exists(k, size(k) < 1 || size(k) > 5 || !k.matches('^[a-z]+$'))"


def test_rules_of_a_model_reach_the_schema() -> None:
    assert structural(Outer, "spec")["x-kubernetes-validations"] == [
        {
            "rule": "self.share < 0.9",
            "message": "too much",
            "messageExpression": "'too ' + 'much'",
            "fieldPath": ".share",
        }
    ]


def test_a_status_gets_no_defaults() -> None:
    assert "default" not in str(structural(Outer, "status", defaults=False))


class FreeString(BaseModel):
    x: str = Field(description="x")


class FreeList(BaseModel):
    x: list[Name] = Field(description="x")


class FreeMap(BaseModel):
    x: dict[Name, Name] = Field(description="x")


class FreeKeys(BaseModel):
    x: dict[str, Name] = Field(max_length=3, description="x")


class FreeInside(BaseModel):
    x: list[list[Name]] = Field(max_length=3, description="x")


class Union(BaseModel):
    x: int | bool = Field(description="x")


class Anything(BaseModel):
    x: Any = Field(description="x")


class AnyMap(BaseModel):
    x: dict[Name, Any] = Field(max_length=3, description="x")


class Pair(BaseModel):
    x: tuple[int, int] = Field(description="x")


class Multiple(BaseModel):
    x: int = Field(multiple_of=5, description="x")


class Constant(BaseModel):
    x: Literal["a"] = Field(description="x")


def test_a_set_of_one_is_an_enumeration() -> None:
    assert fields(Constant)["x"] == {"type": "string", "description": "x", "enum": ["a"]}


class Silent(BaseModel):
    x: int


class Endless(BaseModel):
    x: "list[Endless]" = Field(max_length=3, description="x")


class Open(BaseModel, extra="allow"):
    x: int = Field(description="x")


@pytest.mark.parametrize(
    ("model", "path", "problem"),
    [
        (FreeString, "spec.x", "string without a bound"),
        (FreeList, "spec.x", "list without a bound"),
        (FreeMap, "spec.x", "map without a bound"),
        (FreeKeys, "spec.x", "keys without a bound"),
        (FreeInside, "spec.x[]", "list without a bound"),
        (Union, "spec.x", "is a union"),
        (Anything, "spec.x", "no structural form"),
        (AnyMap, "spec.x.*", "no structural form"),
        (Pair, "spec.x", "has ['prefixItems']"),
        (Multiple, "spec.x", "has ['multipleOf']"),
        (Silent, "spec.x", "no description"),
        (Endless, "spec.x[]", "contains itself"),
        (Open, "spec", "fields and free keys"),
    ],
)
def test_what_a_crd_cannot_say_is_refused_with_its_path(model: type[BaseModel], path: str, problem: str) -> None:
    with pytest.raises(NotStructural) as error:
        structural(model, "spec")

    assert str(error.value).startswith(f"{path}: ")
    assert problem in str(error.value)
