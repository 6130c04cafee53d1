"""The mapping of a Projection, compiled once: an event's type and payload to the change of one row."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

from marty_msf.core.errors import ExpressionError, PoisonEvent
from marty_msf.core.expressions import Expression, over_event
from marty_msf.core.projection.values import CONVERSIONS, Convert, Unfit, shown
from marty_msf.core.resources.projection import EventMapping, ProjectionSpec

Key = tuple[Any, ...]
Value = Callable[[Any], Any]

_MEMBER: Final = re.compile(r"event((?:\.[A-Za-z_][A-Za-z0-9_]*)+)")


class Effect(Enum):
    """What a change does to its row."""

    UPSERT = "upsert"
    UPDATE = "update"
    DELETE = "delete"


class Change(NamedTuple):
    """One event's change of one row; a NamedTuple because one is made per event."""

    effect: Effect
    key: Key
    #: Sorted, without key columns; the same tuple for all changes of one event type.
    columns: tuple[str, ...]
    values: tuple[Any, ...]


def value_of(source: str, path: str) -> Value:
    """A function from the payload to the value of a CEL expression over `event`; a missing member gives None.

    Plain members and constants are computed here, with CEL's results: a call of CEL costs more than the whole rest of
    an event. Raises InvalidDefinition; the function raises ExpressionError.
    """
    expression = over_event(source, path)
    if names := _member_names(source):
        return _member(names, expression)
    if not expression.roots:
        try:
            constant = expression.value({})
        except ExpressionError:
            pass  # Every event meets the error and reports it, with its own name.
        else:
            return lambda _: constant
    return lambda event: expression.value({"event": event})


def _member_names(source: str) -> tuple[str, ...]:
    """The names after `event` when the expression is nothing but a member, else none."""
    member = _MEMBER.fullmatch(source)
    return tuple(member[1].split(".")[1:]) if member else ()


def _member(names: tuple[str, ...], expression: Expression) -> Value:
    def member(event: Any) -> Any:
        value = event
        for name in names:
            if value.__class__ is not dict:
                raise ExpressionError(
                    f"{expression.path}: {expression.source!r} failed: {shown(value)} is no object with a member {name!r}"
                )
            if name not in value:
                return None
            value = value[name]
        return value

    return member


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type_name: str
    value: Value
    convert: Convert
    source: str

    def reader(self) -> Value:
        """From the payload to what is stored. The function raises Unfit and ExpressionError."""
        value_of_event, convert = self.value, self.convert

        def read(event: Any) -> Any:
            value = value_of_event(event)
            return None if value is None else convert(value)

        names = _member_names(self.source)
        if len(names) != 1:
            return read
        name = names[0]

        def read_member(event: Any) -> Any:
            if event.__class__ is not dict:
                return read(event)
            value = event.get(name)
            return None if value is None else convert(value)

        return read_member


class _Plan:
    """One event type's effect."""

    __slots__ = ("_columns", "_effect", "_event_type", "_key", "_key_readers", "_names", "_readers")

    def __init__(self, event_type: str, mapping: EventMapping, spec: ProjectionSpec) -> None:
        model = spec.read_model
        self._event_type = event_type
        self._effect = (
            Effect.DELETE if mapping.delete else Effect.UPSERT if mapping.upsert is not None else Effect.UPDATE
        )
        field = f"spec.events.{event_type}.{self._effect.value}"

        def column(name: str, source: str) -> _Column:
            kind = model.columns[name]
            return _Column(name, kind.value, value_of(source, f"{field}.{name}"), CONVERSIONS[kind], source)

        self._key = [column(name, mapping.columns.get(name, f"event.{name}")) for name in model.key]
        self._columns = [
            column(name, source) for name, source in sorted(mapping.columns.items()) if name not in model.key
        ]
        self._key_readers = [column.reader() for column in self._key]
        self._readers = [column.reader() for column in self._columns]
        self._names = tuple(column.name for column in self._columns)

    def change(self, payload: bytes | None) -> Change:
        """The change this event makes. Raises PoisonEvent without the event's place, which the caller knows."""
        try:
            event = orjson.loads(payload)  # type: ignore[arg-type]  # None is refused like everything that is no JSON
        except orjson.JSONDecodeError as error:
            raise _undecodable(payload, error) from None
        try:
            key = tuple([read(event) for read in self._key_readers])
            values = tuple([read(event) for read in self._readers])
        except (Unfit, ExpressionError):
            raise self._poison(event) from None
        if None in key:
            raise self._poison(event)
        return Change(self._effect, key, self._names, values)

    def _poison(self, event: Any) -> PoisonEvent:
        """Find the column to blame; only now, so that healthy events pay nothing for it."""
        for column in self._key + self._columns:
            try:
                value = column.value(event)
                if value is not None:
                    column.convert(value)
            except Unfit as error:
                return PoisonEvent(
                    f"column {column.name} ({column.type_name}) of a {self._event_type} event:"
                    f" {shown(value)} of {column.source!r} {error}"
                )
            except ExpressionError as error:
                return PoisonEvent(f"column {column.name} of a {self._event_type} event: {error}")
            if value is None and column in self._key:
                return PoisonEvent(
                    f"key column {column.name} of a {self._event_type} event: {column.source!r} is missing or null:"
                    " map the column to a member that every event of this type has"
                )
        raise AssertionError("a poison event has a column that refuses it")


class Mapper:
    """All event types of one Projection. Raises InvalidDefinition at construction."""

    def __init__(self, spec: ProjectionSpec) -> None:
        self._plans = {
            event_type.encode(): _Plan(event_type, mapping, spec) for event_type, mapping in spec.events.items()
        }

    def change(self, event_type: bytes | None, payload: bytes | None) -> Change | None:
        """The change an event makes; None for a type without a mapping. Raises PoisonEvent."""
        plan = self._plans.get(event_type) if event_type is not None else None
        return plan.change(payload) if plan else None


def _undecodable(payload: bytes | None, error: orjson.JSONDecodeError) -> PoisonEvent:
    if payload is None:
        return PoisonEvent("the event has no payload: mappings read its members")
    return PoisonEvent(f"the payload {shown(payload)} is no JSON ({error}): publish JSON")
