"""What of an application's outbox table fits a mapping, and what is said of what does not."""

from dataclasses import replace

import pytest

from marty_msf.core.errors import InvalidDefinition, MappingInvalid
from marty_msf.core.outbox.mapping import Column, Found, check
from marty_msf.core.resources.outbox_source import Source

SOURCE = Source.model_validate(
    {"table": "app.outbox", "topic": "order.events", "columns": {"eventType": "type", "payload": "payload"}}
)
TEXT = Column("text", "text", True)
FOUND = Found("r", "app", "marty", True, True, False, {"type": TEXT, "payload": Column("jsonb", "jsonb", False)})


def test_a_table_that_fits_is_accepted() -> None:
    check(SOURCE, FOUND)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "spec.source.table: there is no table app.outbox: create it"),
        (replace(FOUND, kind="v"), "spec.source.table: app.outbox is no table"),
        (replace(FOUND, may_use=False), 'GRANT USAGE ON SCHEMA "app" TO "marty"'),
        (replace(FOUND, may_trigger=False), 'let app run GRANT TRIGGER ON "app"."outbox" TO "marty"'),
        (replace(FOUND, disabled=True), 'let app run ALTER TABLE "app"."outbox" ENABLE TRIGGER marty_outbox'),
        (replace(FOUND, columns={"type": TEXT, "body": TEXT}), "app.outbox has no column 'payload': name one of its columns: body, type"),
        (
            replace(FOUND, columns={"type": TEXT, "payload": Column("integer", "int4", False)}),
            "spec.source.columns.payload: column payload of app.outbox is integer: map a column of bytea, text, json or jsonb",
        ),
        (
            replace(FOUND, columns={**FOUND.columns, "type": Column("bigint", "int8", False)}),
            "spec.source.columns.eventType: column type of app.outbox is bigint: map a column of text",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_path_and_remedy(found: Found | None, says: str) -> None:
    with pytest.raises(MappingInvalid) as caught:
        check(SOURCE, found)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"topic": None}, "spec.source.topic"),
        ({"columns": {"eventType": "type", "payload": "payload", "topic": "topic"}}, "spec.source.topic"),
        ({"table": "marty.outbox"}, "spec.source.table"),
        ({"table": "pg_catalog.pg_class"}, "spec.source.table"),
    ],
)
def test_an_impossible_mapping_is_refused_before_anybody_looks(change: dict[str, object], path: str) -> None:
    fields = SOURCE.model_dump(by_alias=True, exclude_none=True) | change
    with pytest.raises(InvalidDefinition) as caught:
        Source.model_validate(fields)
    assert caught.value.path == path


@pytest.mark.parametrize("table", ["outbox", "a.b.c", "app.out box", 'app."x"', "app.x;drop", "app." + "x" * 64])
def test_a_table_is_a_schema_and_a_name(table: str) -> None:
    with pytest.raises(ValueError, match="table"):
        Source.model_validate({**SOURCE.model_dump(by_alias=True), "table": table})
