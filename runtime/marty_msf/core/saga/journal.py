"""The journal's format, and the fold that turns a journal back into the instance: recovery is nothing but this fold.

An entry is one line of JSON `[now_ms, tag, fields…]`, a newline, and the request body that became durable with it (empty
when no operation began). JSON has no raw newline, so the body needs no escaping and is given back byte by byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Event, from_list, to_list
from marty_msf.core.saga.instance import Command, Instance
from marty_msf.core.saga.machine import advance


@dataclass(frozen=True, slots=True)
class Folded:
    """An instance as its journal leaves it."""

    instance: Instance
    #: The last command given; None for an instance nobody took up yet.
    command: Command | None
    #: Body of the operation in work, exactly as it was first sent; empty before the first.
    body: bytes


def encode(event: Event, now_ms: int, body: bytes) -> bytes:
    """One entry. `body` is empty unless the event begins an operation."""
    return orjson.dumps([now_ms, *to_list(event)]) + b"\n" + body


def decode(entry: bytes) -> tuple[int, Event, bytes]:
    """The inverse of `encode`."""
    line, _, body = entry.partition(b"\n")
    now_ms, *form = orjson.loads(line)
    return now_ms, from_list(form), body


def fold(definition: Definition, context: Mapping[str, Any], entries: Sequence[bytes]) -> Folded:
    """Replay the entries, in order, on a fresh instance. Raises IllegalTransition when they do not fit together."""
    instance, command, body = Instance(context), None, b""
    for entry in entries:
        now_ms, event, frozen = decode(entry)
        instance, command = advance(definition, instance, event, now_ms)
        body = frozen or body
    return Folded(instance, command, body)
