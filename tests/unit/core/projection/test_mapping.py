"""The compiled mapping: the same results as CEL, and errors that name what to mend."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.errors import ExpressionError, InvalidDefinition, PoisonEvent
from marty_msf.core.expressions import Expression
from marty_msf.core.projection.mapping import Change, Effect, Mapper, value_of
from marty_msf.core.resources.projection import ProjectionSpec


def spec(events: dict[str, Any], columns: dict[str, str] | None = None, key: list[str] | None = None) -> ProjectionSpec:
    return ProjectionSpec.model_validate(
        {
            "database": {"urlSecretRef": {"name": "db"}},
            "kafka": {"bootstrapServers": "kafka:9092"},
            "source": {"kafka": {"topics": ["orders"]}},
            "readModel": {
                "table": "orders",
                "columns": columns or {"id": "text", "total": "bigint", "note": "text"},
                "key": key or ["id"],
            },
            "events": events,
        }
    )


def change(events: dict[str, Any], payload: Any, event_type: bytes = b"e") -> Change | None:
    return Mapper(spec(events)).change(event_type, json.dumps(payload).encode())


names = st.sampled_from(["a", "b", "c", "size", "package"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
members = st.lists(names, min_size=1, max_size=3).map(lambda path: "event." + ".".join(path))
literals = st.sampled_from(["'x'", '"y"', "1", "-3", "1.5", "true", "null", "[1, 2]", "{'a': 1}", "1 / 0", "b'x'"])


@given(st.one_of(members, literals), json_values)
def test_the_fast_path_gives_what_cel_gives(source: str, event: Any) -> None:
    def outcome(function: Any) -> tuple[str, Any]:
        try:
            result = function()
        except ExpressionError:
            return "error", None
        return type(result).__name__, result

    cel = Expression(source, "path")
    assert outcome(lambda: value_of(source, "path")(event)) == outcome(lambda: cel.value({"event": event}))


def test_an_upsert_takes_key_columns_from_members_of_the_same_name() -> None:
    found = change({"e": {"upsert": {"total": "event.sum * 2", "note": "'new'"}}}, {"id": "o-1", "sum": 3})
    assert found == Change(Effect.UPSERT, ("o-1",), ("note", "total"), ("new", 6))


def test_a_mapped_key_column_is_the_key_and_never_a_value() -> None:
    found = change(
        {"e": {"update": {"id": "event.order.id", "total": "event.sum"}}}, {"order": {"id": "o-1"}, "sum": 3}
    )
    assert found == Change(Effect.UPDATE, ("o-1",), ("total",), (3,))


def test_a_delete_needs_only_the_key() -> None:
    assert change({"e": {"delete": True}}, {"id": "o-1"}) == Change(Effect.DELETE, ("o-1",), (), ())


def test_a_missing_member_is_null() -> None:
    found = change({"e": {"upsert": {"total": "event.sum"}}}, {"id": "o-1"})
    assert found is not None
    assert found.values == (None,)


def test_a_type_without_a_mapping_is_passed_without_reading_its_payload() -> None:
    mapper = Mapper(spec({"e": {"delete": True}}))
    assert mapper.change(b"other", b"\xff") is None
    assert mapper.change(None, None) is None


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        ({"sum": 1}, ["key column id", "event.id", "missing or null"]),
        ({"id": None, "sum": 1}, ["key column id", "missing or null"]),
        ({"id": 7, "sum": 1}, ["column id (text)", "7", "string("]),
        ({"id": "o-1", "sum": "x" * 500}, ["column total (bigint)", "xxx…", "int("]),
        ([1, 2], ["column id", "'event.id'", "no object"]),
        ({"id": "o-1", "sum": 1, "a": "text"}, ["column note", "event.a.b", "no object"]),
    ],
)
def test_a_poison_event_names_column_value_and_remedy(payload: Any, parts: list[str]) -> None:
    with pytest.raises(PoisonEvent) as poison:
        change({"e": {"upsert": {"total": "event.sum", "note": "event.a.b"}}}, payload)
    for part in (*parts, "e event"):
        assert part in str(poison.value)


@pytest.mark.parametrize("payload", [None, b"", b"{", b"\xff\xfe", b"NaN"])
def test_a_payload_that_is_no_json_is_poison(payload: bytes | None) -> None:
    with pytest.raises(PoisonEvent, match="payload"):
        Mapper(spec({"e": {"delete": True}})).change(b"e", payload)


def test_a_constant_that_fails_is_the_events_problem_not_the_workers() -> None:
    with pytest.raises(PoisonEvent, match="division by zero"):
        change({"e": {"upsert": {"total": "1 / 0"}}}, {"id": "o-1"})


def test_definitions_that_can_never_run_are_refused() -> None:
    with pytest.raises(InvalidDefinition, match=r"spec\.events\.e\.upsert\.total.*no CEL"):
        Mapper(spec({"e": {"upsert": {"total": "event."}}}))
    with pytest.raises(InvalidDefinition, match=r"reads created, but only event exists.*'text'"):
        Mapper(spec({"e": {"upsert": {"note": "created"}}}))
    with pytest.raises(InvalidDefinition, match="jsonb"):
        Mapper(spec({"e": {"delete": True}}, columns={"id": "jsonb"}))
