"""What an HTTP answer means for a step (the call contract): pure, so that the table below is all there is to know.

| answer | meaning |
|---|---|
| 2xx | success; a JSON object merges into the context, anything else merges nothing |
| 408, 409 with Retry-After, 5xx | failed for a time, may have had its effect |
| 425, 429 | failed for a time, had no effect |
| 3xx, 401, 403, 404, 405 | misconfiguration: the instance is parked, nothing is undone |
| any other 4xx | business failure: nothing happened there |
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.instance import members_problem

Outcome = Succeeded | Unusable | Rejected | Failed | Misconfigured

ANSWER_LIMIT_BYTES: Final = 1024 * 1024
_MISCONFIGURED: Final = frozenset({401, 403, 404, 405})
_NO_EFFECT: Final = frozenset({425, 429})
_QUOTED_CHARACTERS: Final = 300


def classify(
    status: int, headers: Mapping[str, str], body: bytes | None, *, url: str, random: float, now_ms: int
) -> Outcome:
    """The event for a complete answer.

    `headers` is case-insensitive; `body` is None when it was larger than ANSWER_LIMIT_BYTES or encoded.
    """
    if 200 <= status < 300:
        return _success(body, url)
    error = f"HTTP {status} from {url}{quoted(body)}"
    retry_after_ms = _retry_after_ms(headers.get("Retry-After"), now_ms)
    if status in _NO_EFFECT:
        return Failed(error, False, random, retry_after_ms)
    if status == 408 or status >= 500 or (status == 409 and "Retry-After" in headers):
        return Failed(error, True, random, retry_after_ms)
    if 400 <= status < 500 and status not in _MISCONFIGURED:
        return Rejected(error, random)
    return Misconfigured(f"{error}: correct the service, the step's action or who may call it")


def _success(body: bytes | None, url: str) -> Succeeded | Unusable:
    if body is None:
        return Unusable(f"the answer of {url} is compressed or over {ANSWER_LIMIT_BYTES} bytes: answer with less")
    try:
        result = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        result = None
    if not isinstance(result, dict):
        return Succeeded({})
    return succeeded(result, url)


def succeeded(result: Mapping[str, Any], origin: str) -> Succeeded | Unusable:
    """The event for an answer whose members, JSON values, are to merge into the context. `origin` gave it."""
    problem = members_problem(result)
    return Unusable(f"the answer of {origin} cannot be kept: {problem}") if problem else Succeeded(result)


def _retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """Retry-After in either of its forms; None when absent or unreadable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return int(value[:9]) * 1000
    try:
        at = parsedate_to_datetime(value)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(round((at - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds() * 1000), 0)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # The service wrote this text: whatever its parser or the arithmetic makes of it, it is a date or nothing.
        return None


def quoted(body: bytes | None) -> str:
    """The beginning of an error's body, made fit for one line of text."""
    if not body:
        return ""
    text = body[: 4 * _QUOTED_CHARACTERS].decode("utf-8", "replace")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f": {line[:_QUOTED_CHARACTERS]}" if line else ""
