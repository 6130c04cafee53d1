"""CloudEvents 1.0 in Kafka's binary mode: the attributes of an event as message headers, out and in. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import quote

import orjson

from marty_msf.core import event_identity
from marty_msf.core.records import field, header, header_start, tail, varint

Headers: TypeAlias = Sequence[tuple[str, bytes]]

#: Position of the event in its key's order: lets consumers discard what arrives late or twice, by (key, sequence).
SEQUENCE: Final = "ce_martysequence"
CONTENT_TYPE: Final = "content-type"

_SPEC_VERSION: Final = ("ce_specversion", b"1.0")
_JSON: Final = (CONTENT_TYPE, b"application/json")
_REMEMBERED: Final = 4096
#: Up to the value, where its length is always the same, else up to the length.
_ID: Final = header_start("ce_id", 36)
_TIME: Final = header_start("ce_time", len("2026-01-01T00:00:00.000000Z"))
_SUBJECT: Final = header_start("ce_subject")
#: The fraction of a second that ends a time, and the beginning of the header behind it.
_MICROS: Final = b".%06dZ"
_MICROS_AND_SUBJECT: Final = _MICROS + _SUBJECT
#: Headers besides an event's own: the four that `_share` writes, id and time; of one with an order also subject and sequence.
_LOOSE_HEADERS: Final = 6
_HEADERS: Final = 8
#: By the number of digits.
_SEQUENCES: Final = [header_start(SEQUENCE, digits) for digits in range(20)]


@lru_cache(maxsize=4096)
def source(database: str, aggregate_type: str) -> tuple[str, bytes]:
    """The header for `/marty/<database>/<aggregate type>`, percent-encoded: where the event came from."""
    return ("ce_source", f"/marty/{quote(database, safe='')}/{quote(aggregate_type, safe='')}".encode())


@lru_cache(maxsize=64)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@lru_cache(maxsize=_REMEMBERED)
def _name(name: str) -> bytes:
    return header_start(name)


def timestamp(micros: int) -> bytes:
    """RFC 3339 in UTC. Events come in runs of the same second, whose text is remembered."""
    second, rest = divmod(micros, 1_000_000)
    return b"%b.%06dZ" % (_second(second), rest)


class Encoder:
    """Turns events into Kafka records (tails, see core.records).

    Runs once per event and is most of what the relay costs, hence the parts that are made once: what events of one type
    and source share, what one key needs, and the beginnings of headers.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        #: (event type, aggregate type, number of headers) -> everything before the event's id.
        self._shared: dict[tuple[str, str, int], bytes] = {}
        #: Events come in runs of the same second; the header of the time up to its fraction.
        self._second = -1
        self._time = b""

    def tail(
        self,
        event_id: str,
        event_type: str,
        aggregate_type: str,
        key: bytes,
        payload: bytes,
        time: int,
        sequence: int,
        own: Sequence[bytes] = (),
    ) -> bytes:
        """The usual event: its key is its subject, it has an order, and JSON as its payload.

        `key` is a whole field (records.field); `time` is in microseconds since the epoch; `own` is what `own` says.
        """
        kind = (event_type, aggregate_type, _HEADERS + len(own))
        shared = self._shared.get(kind) or self._share(*kind)
        second, micros = divmod(time, 1_000_000)
        if second != self._second:
            self._begin_second(second)
        number = b"%d" % sequence
        return b"".join(
            (
                key,
                varint(len(payload)),
                payload,
                shared,
                event_id.encode(),
                self._time,
                _MICROS_AND_SUBJECT % micros,
                key,
                _SEQUENCES[len(number)],
                number,
                *own,
            )
        )

    def loose_tail(
        self,
        event_id: str,
        event_type: str,
        aggregate_type: str,
        key: bytes,
        subject: bytes | None,
        payload: bytes,
        time: int,
        own: Sequence[bytes] = (),
    ) -> bytes:
        """As `tail`, of an event without an order: its key is not its subject, or it has neither.

        `key` and `subject` are whole fields (records.field), also the key that is none; without an aggregate there is no subject.
        """
        kind = (event_type, aggregate_type, _LOOSE_HEADERS + (subject is not None) + len(own))
        shared = self._shared.get(kind) or self._share(*kind)
        second, micros = divmod(time, 1_000_000)
        if second != self._second:
            self._begin_second(second)
        about = (_MICROS % micros,) if subject is None else (_MICROS_AND_SUBJECT % micros, subject)
        return b"".join((key, varint(len(payload)), payload, shared, event_id.encode(), self._time, *about, *own))

    @staticmethod
    def own(headers: str) -> Sequence[bytes] | None:
        """Headers of an event's own, a JSON object, each as it is written; None when one says another content-type."""
        named: dict[str, str] = orjson.loads(headers)
        if CONTENT_TYPE in map(str.lower, named):
            return None
        return [_name(name) + field(value.encode()) for name, value in named.items()]

    def unusual_tail(
        self,
        event_id: str,
        event_type: str,
        aggregate_type: str,
        key: bytes | None,
        subject: bytes | None,
        payload: bytes,
        time: int,
        sequence: int | None,
        own: str | None,
        more: Headers = (),
    ) -> bytes:
        """Any event. Without an aggregate there is no `subject`, without an order no `sequence`.

        `own` is a JSON object of further headers, whose content-type replaces the default; `more` comes behind them.
        """
        attributes = [
            _SPEC_VERSION,
            ("ce_type", event_type.encode()),
            source(self._database, aggregate_type),
            _JSON,
            ("ce_id", event_id.encode()),
            ("ce_time", timestamp(time)),
        ]
        if subject is not None:
            attributes.append(("ce_subject", subject))
        if sequence is not None:
            attributes.append((SEQUENCE, b"%d" % sequence))
        if own is not None:
            named: dict[str, str] = orjson.loads(own)
            if CONTENT_TYPE in map(str.lower, named):
                attributes.remove(_JSON)
            attributes.extend((name, value.encode()) for name, value in named.items())
        return tail(key, payload, [*attributes, *more])

    def _begin_second(self, second: int) -> None:
        self._second, self._time = second, _TIME + _second(second)

    def _share(self, event_type: str, aggregate_type: str, headers: int) -> bytes:
        if len(self._shared) >= _REMEMBERED:
            self._shared.clear()
        named = (_SPEC_VERSION, ("ce_type", event_type.encode()), source(self._database, aggregate_type), _JSON)
        made = varint(headers) + b"".join(header(name, value) for name, value in named) + _ID
        self._shared[event_type, aggregate_type, headers] = made
        return made


@dataclass(frozen=True, slots=True)
class Envelope:
    """The attributes of a received event; those a foreign producer left out are empty, or None."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    sequence: int | None


def envelope(received: Mapping[str, bytes | None]) -> Envelope:
    """Read the attributes from a message's headers.

    Kafka allows a header without a value: it counts as left out. Bytes that are no UTF-8 are replaced (in id and source so
    that different ones stay different), a sequence that is no number is None.
    """
    text = {
        name: event_identity.exact(value) if name in event_identity.HEADERS else value.decode(errors="replace")
        for name, value in received.items()
        if value and name.startswith("ce_")
    }
    sequence = text.get(SEQUENCE, "")
    return Envelope(
        id=text.get("ce_id", ""),
        type=text.get("ce_type", ""),
        source=text.get("ce_source", ""),
        subject=text.get("ce_subject", ""),
        time=text.get("ce_time", ""),
        sequence=int(sequence) if sequence.isascii() and sequence.isdecimal() and len(sequence) < 20 else None,
    )
