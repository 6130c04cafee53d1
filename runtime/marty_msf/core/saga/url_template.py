"""URLs of steps with names in braces: `http://orders/orders/{order_id}`. Pure; every value is percent-encoded.

What a context holds came from outside, so a name can never change where the call goes: none may stand in the scheme or
host, and a value is one segment of the path, or part of the query, whatever characters it has.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from marty_msf.core.errors import InvalidDefinition

_NAME: Final = re.compile(r"\{([^{}]*)\}")
_PATH: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")
#: A scheme and a host without user and password; both stand before the first name.
_ORIGIN: Final = re.compile(
    r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?(?=[/?]|$)"
)
_LITERAL: Final = re.compile(r"[!-~]*")
_REMEDY: Final = "write http://host/path, with names of the context in braces behind the host"
_VALUE_CHARACTERS: Final = 2000


class UnfilledTemplate(ValueError):
    """A name of the template has no value that fits into a URL; the message says which and what to do."""


class Template:
    """One parsed URL. Raises InvalidDefinition(path, …) for what can never be a URL."""

    __slots__ = ("_names", "_parts", "path", "source")

    def __init__(self, source: str, path: str) -> None:
        self.source = source
        self.path = path
        if not _LITERAL.fullmatch(source) or "#" in source or "\\" in source:
            raise InvalidDefinition(path, f"{source!r} has a fragment, or characters no URL has", "percent-encode them")
        origin = _ORIGIN.match(source)
        if origin is None or not _is_port(origin[2]):
            raise InvalidDefinition(path, f"{source!r} does not begin with http:// or https:// and a host", _REMEDY)
        #: Literal, name, literal, name, …, literal.
        self._parts = _NAME.split(source)
        self._names = tuple(tuple(name.split(".")) for name in self._parts[1::2])
        for name in self._parts[1::2]:
            if not _PATH.match(name):
                raise InvalidDefinition(
                    path, f"{{{name}}} is no name", "write {order_id}, or {customer.id} for a member"
                )
        if any(brace in literal for literal in self._parts[::2] for brace in "{}"):
            raise InvalidDefinition(path, f"{source!r} has a brace without its other one", _REMEDY)
        if any(part in (".", "..") for part in urlsplit("".join(self._parts[::2])).path.split("/")):
            raise InvalidDefinition(path, f"{source!r} has a '.' or '..' in its path", "write the path without it")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.source == self.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Template({self.source!r})"

    def url(self, context: Mapping[str, Any], data: Mapping[str, Any]) -> str:
        """The URL for a context, whose members come before those of the step's `data`. Raises UnfilledTemplate."""
        if not self._names:
            return self.source
        filled = list(self._parts)
        for index, name in enumerate(self._names):
            filled[2 * index + 1] = quote(self._value(name, context, data), safe="")
        return "".join(filled)

    def _value(self, name: tuple[str, ...], context: Mapping[str, Any], data: Mapping[str, Any]) -> str:
        value: Any = context if name[0] in context else data
        shown = ".".join(name)
        for part in name:
            if not isinstance(value, Mapping) or part not in value:
                raise UnfilledTemplate(
                    f"{self.path}: {{{shown}}} of {self.source!r} is neither in the context nor in the step's data:"
                    " correct the URL, or edit the context, and resume the instance"
                )
            value = value[part]
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._unfit(shown, f"is a {type(value).__name__}")
        text = str(value)
        if not text or text in (".", ".."):
            raise self._unfit(shown, f"is {text!r}")
        if len(text) > _VALUE_CHARACTERS:
            raise self._unfit(shown, f"has {len(text)} characters")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._unfit(shown, "has a lone surrogate") from None
        return text

    def _unfit(self, name: str, problem: str) -> UnfilledTemplate:
        return UnfilledTemplate(
            f"{self.path}: {{{name}}} of {self.source!r} {problem}: a URL takes an integer there, or text of 1 to {_VALUE_CHARACTERS}"
            " characters other than '.' and '..'; edit the context and resume the instance"
        )


def _is_port(part: str | None) -> bool:
    return part is None or 0 < int(part[1:]) < 65536
