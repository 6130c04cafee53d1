"""JSON in and out of the workers' HTTP routes."""

from typing import Any, Final

import orjson
from aiohttp import web

from marty_msf.core.errors import InvalidDefinition

#: Header that says who asks for a verb, for the audit; without it the address counts.
WHO: Final = "Marty-User"


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


def answer(status: int, body: Any) -> web.Response:
    """`body` as JSON."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer that says what is wrong, and the remedy."""
    return web.Response(
        status=status, body=orjson.dumps({"error": message}), content_type="application/json", headers=headers
    )
