"""The journal's format, and the fold that turns a journal back into the instance: recovery is nothing but this fold.

An entry is one line of JSON `[now_ms, tag, fields…]`, a newline, and the request bodies that became durable with it, a line
each, in the order of the commands (nothing when no operation began). JSON has no raw newline, so bodies need no escaping
and are given back byte by byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

import orjson

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.diagnosis import progressed
from marty_msf.core.saga.events import Event, Migrated, Started, Verb, from_list, to_list
from marty_msf.core.saga.instance import Call, Commands, Instance
from marty_msf.core.saga.machine import advance, request_body
from marty_msf.core.saga.migration import restored
from marty_msf.core.value import value


@value
class Folded:
    """An instance as its journal leaves it."""

    instance: Instance
    #: By step the body of the operation in work, exactly as it was first sent.
    bodies: Mapping[int, bytes]
    #: When it made its last progress, see core.saga.diagnosis (milliseconds since 1970); 0 when nobody took it up.
    progress_ms: int = 0
    #: By step when its newest call was made.
    called_ms: Mapping[int, int] = field(default_factory=dict)


@value
class Begun:
    """An instance with its first transition, ready to be written."""

    instance: Instance
    commands: Commands
    entry: bytes
    bodies: dict[int, bytes]


def encode(event: Event, now_ms: int, bodies: bytes = b"") -> bytes:
    """One entry. `bodies` is what `frozen` gave for the commands of the event."""
    return orjson.dumps([now_ms, *to_list(event)]) + b"\n" + bodies


def decode(entry: bytes) -> tuple[int, Event, bytes]:
    """The inverse of `encode`."""
    line, _, bodies = entry.partition(b"\n")
    now_ms, *form = orjson.loads(line)
    return now_ms, from_list(form), bodies


def frozen(
    definition: Definition, instance: Instance, commands: Commands, saga_id: str, before: Mapping[int, bytes]
) -> tuple[bytes, dict[int, bytes]]:
    """The bodies of the first calls among the commands, for the entry; and those of all that is in work now."""
    if len(commands) == 1 and len(instance.operations) == 1:
        # The path of every step that stands alone.
        (call,) = commands
        if isinstance(call, Call) and call.first:
            body = request_body(definition, instance, saga_id, call)
            return body, {call.step: body}
    news = {
        it.step: request_body(definition, instance, saga_id, it) for it in commands if isinstance(it, Call) and it.first
    }
    return b"\n".join(news.values()), _in_work(instance, {**before, **news})


def begin(definition: Definition, context: Mapping[str, Any], saga_id: str, now_ms: int) -> Begun:
    """A new instance, taken up now."""
    event = Started(now_ms + definition.timeout_ms)
    instance, commands = advance(definition, Instance(context), event, now_ms)
    lines, bodies = frozen(definition, instance, commands, saga_id, {})
    return Begun(instance, commands, encode(event, now_ms, lines), bodies)


def migrated(event: Migrated, now_ms: int, bodies: Mapping[int, bytes]) -> bytes:
    """The entry of an instance that moved to another revision; `bodies` are those of its work under the new steps."""
    steps = [it.step for it in restored(event.instance).operations]
    return encode(event, now_ms, b"\n".join(bodies[step] for step in steps if step in bodies))


def fold(definition: Definition, context: Mapping[str, Any], entries: Sequence[bytes]) -> Folded:
    """Replay the entries, in order, on a fresh instance. Raises IllegalTransition when they do not fit together.

    What was before the instance moved to this definition says nothing more.
    """
    instance = Instance(context)
    bodies: dict[int, bytes] = {}
    called_ms: dict[int, int] = {}
    progress_ms = 0
    for now_ms, event, lines in _since_migration([decode(entry) for entry in entries]):
        before = instance
        instance, commands = advance(definition, instance, event, now_ms)
        if isinstance(event, Verb) or progressed(before, instance):
            progress_ms = now_ms
        called_ms |= {it.step: now_ms for it in commands if isinstance(it, Call)}
        if lines:
            if isinstance(event, Migrated):
                steps = [it.step for it in instance.operations]
            else:
                steps = [it.step for it in commands if isinstance(it, Call) and it.first]
            bodies = {**bodies, **dict(zip(steps, lines.split(b"\n"), strict=True))}
    return Folded(instance, _in_work(instance, bodies), progress_ms, called_ms)


def _since_migration(decoded: Sequence[tuple[int, Event, bytes]]) -> Sequence[tuple[int, Event, bytes]]:
    for at in range(len(decoded) - 1, -1, -1):
        if isinstance(decoded[at][1], Migrated):
            return decoded[at:]
    return decoded


def _in_work(instance: Instance, bodies: Mapping[int, bytes]) -> dict[int, bytes]:
    if not instance.operations:
        return {}
    return {it.step: bodies[it.step] for it in instance.operations if it.step in bodies}
