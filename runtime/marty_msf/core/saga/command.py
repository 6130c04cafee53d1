"""Steps as messages, out and in: the command that asks for a step, and what a reply to it says. Pure.

A command is a CloudEvent in Kafka's binary mode whose value is the body of the call contract. It names where the reply is
wanted and by what it is recognised (Return Address and Correlation Identifier of G. Hohpe and B. Woolf, Enterprise
Integration Patterns). The same operation has the same correlation identifier however often its command is sent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

import orjson

from marty_msf.core.cloudevents import CONTENT_TYPE, Headers
from marty_msf.core.errors import ExpressionError, PoisonEvent
from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Failed, Rejected, Succeeded, Unusable
from marty_msf.core.saga.instance import RESERVED, Instance, Operation
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES, quoted, succeeded

CORRELATION: Final = "correlation-id"
REPLY_TOPIC: Final = "reply-topic"
IDEMPOTENCY_KEY: Final = "idempotency-key"
OUTCOME: Final = "marty-outcome"
#: The same as attributes of CloudEvents, for producers that can set no other headers.
_CORRELATION_ATTRIBUTE: Final = "ce_correlationid"
_OUTCOME_ATTRIBUTE: Final = "ce_martyoutcome"

#: What follows the instance's id in an idempotency key: `<step>:<do|undo>:<number>`.
_CALL: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}:(do|undo):[1-9][0-9]{0,8}")

#: Of a reply that is no success, as much as an error quotes of it.
_ERROR_BYTES: Final = 2048


class ReplyOutcome(StrEnum):
    """What a service says of a command."""

    SUCCEEDED = "succeeded"
    #: Refused for a business reason; nothing happened.
    REJECTED = "rejected"
    #: Failed for a time, or nobody knows: it is asked for again.
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the same answer would be given to every further command with this correlation identifier."""
        return self is not ReplyOutcome.FAILED


@dataclass(frozen=True, slots=True)
class Command:
    """A message for the command topic."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to a command of this saga."""

    saga_id: UUID
    #: The rest of the idempotency key: `<step>:<do|undo>:<number>`.
    call: str
    outcome: ReplyOutcome
    #: None: larger than an answer may be.
    value: bytes | None

    @property
    def step(self) -> str:
        """Name of the step."""
        return self.call.partition(":")[0]


def command(
    call: KafkaCall, *, resource: str, saga_id: str, action: str, idempotency_key: str, body: bytes, traceparent: str
) -> Command:
    """The command for one operation. Raises ExpressionError when its key cannot be computed."""
    return Command(
        call.command_topic,
        _key(call, body) if call.key is not None else saga_id.encode(),
        body,
        [
            ("ce_specversion", b"1.0"),
            ("ce_id", idempotency_key.encode()),
            ("ce_type", action.encode()),
            ("ce_source", source(resource).encode()),
            ("ce_subject", saga_id.encode()),
            (CONTENT_TYPE, b"application/json"),
            (IDEMPOTENCY_KEY, idempotency_key.encode()),
            (CORRELATION, correlation_id(resource, idempotency_key).encode()),
            (REPLY_TOPIC, call.reply_topic.encode()),
            ("traceparent", traceparent.encode()),
        ],
    )


def source(resource: str) -> str:
    """The `ce_source` of a saga's commands; `resource` is `namespace/name`."""
    return f"/marty/saga/{resource}"


def correlation_id(resource: str, idempotency_key: str) -> str:
    """By what a reply is recognised: `<namespace>/<name>/<idempotency key>`, so that sagas may share a reply topic."""
    return f"{resource}/{idempotency_key}"


def read_reply(resource: str, headers: Mapping[str, bytes], value: bytes | None) -> Reply | None:
    """What a message on a reply topic says; None when it is for another saga. Raises PoisonEvent when it is no reply."""
    correlation = _text(headers, CORRELATION, _CORRELATION_ATTRIBUTE)
    if not correlation:
        raise PoisonEvent(f"the reply has no {CORRELATION} header: let the service copy that of the command")
    wanted, _, key = correlation.rpartition("/")
    saga_id, _, call = key.partition(":")
    if wanted != resource and wanted.count("/") == 1:
        return None
    identity = _uuid(saga_id)
    if wanted != resource or identity is None or not _CALL.fullmatch(call):
        raise PoisonEvent(
            f"{CORRELATION} {correlation[:300]!r} is none that this saga sends: let the service copy that of the command"
        )
    said = _text(headers, OUTCOME, _OUTCOME_ATTRIBUTE)
    try:
        outcome = ReplyOutcome(said.lower())
    except ValueError:
        known = ", ".join(ReplyOutcome)
        raise PoisonEvent(
            f"the reply's {OUTCOME} header is {said[:100]!r}: let the service set one of {known}"
        ) from None
    if outcome is not ReplyOutcome.SUCCEEDED:
        return Reply(identity, call, outcome, (value or b"")[:_ERROR_BYTES])
    kept = value or b""
    return Reply(identity, call, outcome, kept if len(kept) <= ANSWER_LIMIT_BYTES else None)


def meaning(reply: Reply, origin: str, random: float) -> Succeeded | Unusable | Rejected | Failed:
    """The event for a reply. `origin` says where it came from; `random` in [0, 1) spreads retries."""
    match reply.outcome:
        case ReplyOutcome.SUCCEEDED:
            return _success(reply.value, origin)
        case ReplyOutcome.REJECTED:
            return Rejected(f"rejected by {origin}{quoted(reply.value)}", random)
        case ReplyOutcome.FAILED:
            return Failed(f"failed, says {origin}{quoted(reply.value)}", True, random)


def operation_for(definition: Definition, instance: Instance, call: str) -> Operation | None:
    """The operation in work that a reply to `call` answers; None when there is none, or none any more."""
    for it in instance.operations:
        if call == f"{definition.steps[it.step].name}:{'undo' if it.undo else 'do'}:{it.number}":
            return it
    return None


def _success(value: bytes | None, origin: str) -> Succeeded | Unusable:
    if value is None:
        return Unusable(f"{origin} is over {ANSWER_LIMIT_BYTES} bytes: answer with less")
    try:
        result = orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        result = None
    return succeeded(result, origin) if isinstance(result, dict) else Succeeded({})


def _key(call: KafkaCall, body: bytes) -> bytes:
    """From the context as the body has it, so that every command of an operation goes to the same partition."""
    assert call.key is not None
    context = orjson.loads(body)["context"]
    key = call.key.value({**context, RESERVED: context})
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise ExpressionError(f"{call.key.path}: {call.key.source!r} gave {key!r}: let it give text or an integer")
    return str(key).encode(errors="replace")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _text(headers: Mapping[str, bytes], *names: str) -> str:
    for name in names:
        if value := headers.get(name):
            return value.decode(errors="replace").strip()
    return ""
