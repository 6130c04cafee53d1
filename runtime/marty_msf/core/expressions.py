"""CEL expressions of conditions, keys and mappings: compiled once per definition, evaluated without side effects.

CEL is the only language users can put into a resource; nothing here evaluates Python or SQL.
"""

from collections.abc import Mapping
from typing import Any, Final

from marty_msf.core import cel_engine
from marty_msf.core.errors import ExpressionError, InvalidDefinition

#: What CEL raises when a member, an index or a root name does not exist (a root only if the context lacks it, see below).
_ABSENT = (KeyError, IndexError)
_FAILED = (TypeError, ValueError, ZeroDivisionError, OverflowError, RuntimeError)

#: Everything the language offers by name; operators are functions as well, but no identifiers.
FUNCTIONS: Final = frozenset(
    (
        *("bytes", "contains", "double", "duration", "dyn", "endsWith", "int", "matches", "size", "startsWith"),
        *("string", "timestamp", "type", "uint"),
        *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds"),
        *("getMinutes", "getMonth", "getSeconds"),
        *("hasValue", "none", "of", "ofNonZeroValue", "or", "orValue", "value"),
    )
)


class Expression:
    """One compiled expression.

    Raises InvalidDefinition(path, …) at construction when `source` is no CEL expression or calls an unknown function.
    """

    __slots__ = ("_program", "_roots", "path", "source")

    def __init__(self, source: str, path: str) -> None:
        try:
            self._program = cel_engine.compile_source(source)
        except ValueError as error:
            raise InvalidDefinition(
                path, f"{source!r} is no CEL expression ({_parser_message(error)})", "correct it"
            ) from None
        if unknown := sorted(set(filter(str.isidentifier, self._program.functions())) - FUNCTIONS):
            raise InvalidDefinition(
                path, f"{source!r} calls {', '.join(unknown)}, which CEL does not have", "correct it"
            )
        self._roots = frozenset(self._program.variables())
        self.source = source
        self.path = path

    @property
    def roots(self) -> frozenset[str]:
        """Names the expression reads at its root; includes names bound by macros such as all() and map()."""
        return self._roots

    def value(self, variables: Mapping[str, Any]) -> Any:
        """The result as plain Python; None when a root, member or index it reads does not exist.

        Raises ExpressionError on a type error, a division by zero or an unknown function.
        """
        try:
            return self._program.execute(dict(variables))
        except _ABSENT:
            return None
        except _FAILED as error:
            if isinstance(error, RuntimeError) and self._roots - variables.keys():
                return None
            raise ExpressionError(f"{self.path}: {self.source!r} failed: {error}") from None

    def holds(self, variables: Mapping[str, Any]) -> bool:
        """The result of a condition; a missing name makes it false. Raises ExpressionError when it is no boolean."""
        result = self.value(variables)
        if result is None:
            return False
        if not isinstance(result, bool):
            raise ExpressionError(
                f"{self.path}: {self.source!r} gave {type(result).__name__}, not a boolean: compare it with something"
            )
        return result


def check(source: str, path: str) -> None:
    """Raise InvalidDefinition when `source` is no CEL expression or calls an unknown function."""
    Expression(source, path)


def over_event(source: str, path: str) -> Expression:
    """An expression of a mapping, which sees an event's payload as `event`. Raises InvalidDefinition as Expression does."""
    expression = Expression(source, path)
    if expression.roots and "event" not in expression.roots:
        unknown = ", ".join(sorted(expression.roots))
        raise InvalidDefinition(path, f"{source!r} reads {unknown}, but only event exists", "write a text as 'text'")
    return expression


def _parser_message(error: ValueError) -> str:
    """The parser's own sentence without its echo of the source."""
    lines = [line for line in str(error).splitlines() if "Syntax error" in line]
    return lines[0].partition("Syntax error: ")[2] if lines else str(error).splitlines()[0]
