"""Runs pieces of the document that the library implements exactly as they are written there, names of theirs given."""

import ast
import inspect
import types
from collections.abc import Mapping
from typing import Any


async def run(snippet: str, names: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Execute the text, `await` at its top level included; returns what it defined, beside the given names."""
    space: dict[str, Any] = dict(names or {})
    code = compile(snippet, "<document>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        await types.FunctionType(code, space)()
    else:
        exec(code, space)
    return space
