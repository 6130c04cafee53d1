"""How a service takes part in a saga: every call takes effect once, and an undo may arrive before its do.

Copy this module into a service of your own. It needs two tables (`TABLES`) in the service's schema, and that the
effect runs in the transaction that is given to it.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import asyncpg

from shop.database import Connection

TABLES: Final = """
CREATE TABLE IF NOT EXISTS saga_calls (
    idempotency_key text PRIMARY KEY,
    status          integer,
    body            text,
    received_at     timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS saga_steps (
    saga_id      text NOT NULL,
    step         text NOT NULL,
    undone_round integer,
    PRIMARY KEY (saga_id, step)
);
"""

KEY_LIMIT: Final = 300


class Direction(StrEnum):
    DO = "do"
    UNDO = "undo"


class BadCall(Exception):
    """A request that breaks the call contract; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One step call or its undo, as the saga worker sends it."""

    key: str
    saga_id: str
    step: str
    direction: Direction
    #: 0 until a person asks for the step to be tried again; a later round is not bound by an earlier undo.
    round: int
    context: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    #: What the step answered; only an undo has it, and only when the answer arrived.
    result: Mapping[str, Any] | None = None

    def text(self, name: str) -> str:
        """A member of the context that must be text."""
        value = self.context.get(name)
        if not isinstance(value, str) or not value:
            raise BadCall(f"context.{name} must be text, got {value!r}: map it in the Saga's trigger")
        return value

    def number(self, name: str) -> int:
        """A member of the context that must be a whole number."""
        value = self.context.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadCall(f"context.{name} must be a whole number, got {value!r}: map it in the Saga's trigger")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """2xx: done, the body merges into the saga's context. Other 4xx: refused for good, the saga undoes what it did."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)


Effect = Callable[[Connection, Call], Awaitable[Answer]]

ALREADY_UNDONE: Final = Answer(409, {"error": "already_undone", "message": "this step was undone before it was done"})


def parse(key: str | None, body: bytes) -> Call:
    """Read `Idempotency-Key: <saga>:<step>:<do|undo>:<n>` and the JSON body. Raises BadCall."""
    if not key or len(key) > KEY_LIMIT:
        raise BadCall(f"Idempotency-Key must have 1 to {KEY_LIMIT} characters")
    parts = key.rsplit(":", 3)
    if len(parts) != 4 or parts[2] not in tuple(Direction) or not parts[3].isdecimal():
        raise BadCall(f"Idempotency-Key must be <saga>:<step>:<do|undo>:<n>, got {key!r}")
    try:
        message = json.loads(body)
    except ValueError as error:
        raise BadCall(f"the body is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("context"), dict):
        raise BadCall("the body must be a JSON object with an object `context`")
    if (message.get("saga_id"), message.get("step")) != (parts[0], parts[1]):
        raise BadCall("saga_id and step in the body differ from the Idempotency-Key")
    return Call(
        key=key,
        saga_id=parts[0],
        step=parts[1],
        direction=Direction(parts[2]),
        round=int(parts[3]),
        context=message["context"],
        data=message.get("data") or {},
        result=message.get("result"),
    )


async def answer_once(pool: asyncpg.Pool, call: Call, effect: Effect) -> Answer:
    """Run `effect` and keep its answer in one transaction; the same key later gets the kept answer and changes nothing.

    A refusal (4xx) is kept too, so an effect decides before it writes. An exception rolls everything back.
    """
    async with pool.acquire() as connection, connection.transaction():
        return await once(connection, call.key, lambda: _guarded(connection, call, effect))


CLAIM_KEY: Final = """
INSERT INTO saga_calls (idempotency_key) VALUES ($1)
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING idempotency_key
"""

KEPT_ANSWER: Final = "SELECT status, body FROM saga_calls WHERE idempotency_key = $1"

KEEP_ANSWER: Final = "UPDATE saga_calls SET status = $2, body = $3 WHERE idempotency_key = $1"


async def once(connection: Connection, key: str, effect: Callable[[], Awaitable[Answer]]) -> Answer:
    """The first caller with `key` runs the effect; a concurrent one waits here for its commit and gets its answer."""
    if await connection.fetchval(CLAIM_KEY, key) is None:
        kept = await connection.fetchrow(KEPT_ANSWER, key)
        return Answer(kept["status"], json.loads(kept["body"]))
    answer = await effect()
    await connection.execute(KEEP_ANSWER, key, answer.status, json.dumps(dict(answer.body)))
    return answer


#: Locks the step's row, so that a do and its undo that arrive together run one after the other.
LOCK_STEP: Final = """
INSERT INTO saga_steps (saga_id, step) VALUES ($1, $2)
ON CONFLICT (saga_id, step) DO UPDATE SET step = excluded.step
RETURNING undone_round
"""

MARK_UNDONE: Final = """
UPDATE saga_steps SET undone_round = greatest(undone_round, $3) WHERE saga_id = $1 AND step = $2
"""


async def _guarded(connection: Connection, call: Call, effect: Effect) -> Answer:
    undone_round = await connection.fetchval(LOCK_STEP, call.saga_id, call.step)
    if call.direction is Direction.UNDO:
        # The mark stays even when nothing was done yet: it refuses the do that is still on its way.
        await connection.execute(MARK_UNDONE, call.saga_id, call.step, call.round)
    elif undone_round is not None and undone_round >= call.round:
        return ALREADY_UNDONE
    return await effect(connection, call)
