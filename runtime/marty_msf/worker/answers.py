"""JSON in and out of the workers' HTTP routes."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from marty_msf.core.errors import InvalidDefinition

#: Header that says who asks for a verb, for the audit; without it the address counts.
WHO: Final = "Marty-User"
#: Zeros in front included: more digits are a mistake, whatever number they make.
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body, a JSON object; nothing at all is an empty one. Raises InvalidDefinition."""
    try:
        body = orjson.loads(await request.read() or b"{}")
    except web.RequestPayloadError:
        raise InvalidDefinition("body", "is not encoded as its Content-Encoding says", "send plain JSON") from None
    except orjson.JSONDecodeError as error:
        raise InvalidDefinition("body", f"is no JSON ({error})", "send a JSON object") from error
    if not isinstance(body, dict):
        raise InvalidDefinition("body", f"is a {type(body).__name__}", "send a JSON object")
    return body


def parameters(request: web.Request) -> Mapping[str, str]:
    """The query. Raises InvalidDefinition for a parameter given twice: one of its values would count for nothing."""
    query = request.query
    for name in query:
        if len(query.getall(name)) > 1:
            raise InvalidDefinition(name, "is given more than once", "give it once")
    return query


def whole_number(path: str, text: str, most: int, least: int = 1, *, remedy: str = "correct it or leave it out") -> int:
    """A parameter that counts something. Raises InvalidDefinition."""
    if _NUMBER.fullmatch(text) and least <= int(text) <= most:
        return int(text)
    raise InvalidDefinition(path, f"{text!r} is no number from {least} to {most}", remedy)


def answer(status: int, body: Any) -> web.Response:
    """`body` as JSON."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer that says what is wrong, and the remedy."""
    return web.Response(
        status=status, body=orjson.dumps({"error": message}), content_type="application/json", headers=headers
    )
