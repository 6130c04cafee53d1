"""Which dead letters a person means, and what may become of one that is edited. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from marty_msf.core.cloudevents import CONTENT_TYPE
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.selection import moment_ms

#: As in marty.enqueue_event_bytes.
PAYLOAD_LIMIT_BYTES: Final = 900_000
HEADERS_LIMIT_BYTES: Final = 16_384
#: Ids that may be named at once; filters take any number.
IDS_LIMIT: Final = 1000
WHO_LIMIT: Final = 200
WHY_LIMIT: Final = 1000
_CAUSE: Final = re.compile(r"[0-9a-f]{12}")
_HEADER: Final = re.compile(r"(?!ce_)[a-z0-9._-]{1,100}", re.IGNORECASE)
_LAST_ID: Final = (1 << 63) - 1
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Choice:
    """Filters that all have to hold; None stands for anything. `since` and `until` bound the time of the last failure."""

    ids: Sequence[int] | None = None
    cause: str | None = None
    topic: str | None = None
    event_type: str | None = None
    aggregate_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def filtered(self) -> bool:
        """Whether it leaves anything out."""
        return self != Choice()

    def form(self) -> Mapping[str, Any]:
        """What is set, as JSON values."""
        values = {
            "ids": self.ids,
            "cause": self.cause,
            "topic": self.topic,
            "event_type": self.event_type,
            "aggregate_id": self.aggregate_id,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
        }
        return {name: value for name, value in values.items() if value is not None}


def choice(
    *,
    ids: Sequence[int | str] | None = None,
    cause: str | None = None,
    topic: str | None = None,
    event_type: str | None = None,
    aggregate_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
    now_ms: int,
) -> Choice:
    """Read filters; `since` and `until` are ages (90s, 30m, 2h, 3d) or ISO times. Raises InvalidDefinition."""
    if cause is not None and not _CAUSE.fullmatch(cause):
        raise InvalidDefinition("cause", f"{cause!r} is not twelve hex digits", "give one that `marty dlq list` shows")
    for path, text in (("topic", topic), ("event_type", event_type), ("aggregate_id", aggregate_id)):
        if text is not None and not _storable(text):
            raise InvalidDefinition(path, f"{text!r} is no text that Postgres can hold", "correct it")
    numbers = None if ids is None else sorted({event_id(it) for it in ids})
    if numbers is not None and not 1 <= len(numbers) <= IDS_LIMIT:
        raise InvalidDefinition("ids", f"are {len(numbers)}", f"give 1 to {IDS_LIMIT}, or a filter")
    since_at, until_at = _moment("since", since, now_ms), _moment("until", until, now_ms)
    if since_at and until_at and since_at >= until_at:
        raise InvalidDefinition("until", f"{until!r} is not after since", "swap the two, or leave one out")
    return Choice(numbers, cause, topic, event_type, aggregate_id, since_at, until_at)


def event_id(value: object) -> int:
    """The id of an event. Raises InvalidDefinition."""
    text = str(value)
    if (
        isinstance(value, bool)
        or not (text.isascii() and text.isdigit())
        or len(text) > 19
        or not 1 <= int(text) <= _LAST_ID
    ):
        raise InvalidDefinition("id", f"{text[:40]!r} is no event's id", "give the number that `marty dlq list` shows")
    return int(text)


def _moment(path: str, text: str | None, now_ms: int) -> datetime | None:
    if text is None:
        return None
    at_ms = min(max(moment_ms(path, text, now_ms), 0), _LATEST_MS)
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else _EARLIEST


@dataclass(frozen=True, slots=True)
class Person:
    """Who does something to dead letters, and why, for the audit."""

    who: str
    why: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidDefinition."""
        for path, text, limit in (("who", self.who, WHO_LIMIT), ("why", self.why, WHY_LIMIT)):
            if len(text) > limit or not _storable(text):
                raise InvalidDefinition(path, f"is {len(text)} characters or no text", f"give at most {limit}")
        if not self.who.strip():
            raise InvalidDefinition("who", "is empty", "say who asks")


@dataclass(frozen=True, slots=True)
class Content:
    """What of an event a person may change."""

    payload: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change: the payload as a whole, headers as a JSON merge patch (null removes one)."""

    payload: bytes | None = None
    headers: Mapping[str, str | None] | None = None


def edited(former: Content, edit: Edit) -> Content:
    """The event's content after the edit. Raises InvalidDefinition for what marty.enqueue_event would refuse."""
    if edit.payload is None and not edit.headers:
        raise InvalidDefinition("payload", "is not given, and no headers either", "give what is to change")
    headers = dict(former.headers)
    for name, value in (edit.headers or {}).items():
        if value is None:
            headers.pop(name, None)
        else:
            headers[name] = value
    _check_headers(headers)
    payload = former.payload if edit.payload is None else edit.payload
    if len(payload) > PAYLOAD_LIMIT_BYTES:
        raise InvalidDefinition(
            "payload",
            f"of {len(payload)} bytes is over the limit of {PAYLOAD_LIMIT_BYTES}",
            "store the document elsewhere and send an identifier of it",
        )
    if CONTENT_TYPE not in map(str.lower, headers) and _is_json(former.payload) and not _is_json(payload):
        raise InvalidDefinition(
            "payload", "is no JSON, and was before", f"correct it, or set the header {CONTENT_TYPE} to what it is"
        )
    return Content(payload, headers)


def _check_headers(headers: Mapping[str, object]) -> None:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise InvalidDefinition(
                f"headers[{name[:120]!r}]",
                "is refused",
                "use 1 to 100 letters, digits, dots, underscores and hyphens; ce_… is reserved",
            )
        if not isinstance(value, str) or not _storable(value):
            raise InvalidDefinition(f"headers[{name!r}]", f"{value!r} is no text", "give text, or null to remove it")
    if len(orjson.dumps(headers)) > HEADERS_LIMIT_BYTES:
        raise InvalidDefinition("headers", f"are over {HEADERS_LIMIT_BYTES} bytes", "shorten them")


def _storable(text: str) -> bool:
    return not any(it == "\0" or "\ud800" <= it <= "\udfff" for it in text)


def _is_json(payload: bytes) -> bool:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return True
