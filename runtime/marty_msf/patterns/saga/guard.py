"""How a Python service takes part in sagas safely: each step and its undo take effect once, in whatever order they arrive.

An undo may arrive before its do (a call that timed out is still on its way): it succeeds, and the late do is refused for
ever. Needs the schema `marty` (`marty migrate`) in the service's own database, and nothing of the saga's worker.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from asyncpg import Connection

from marty_msf.core.errors import InvalidDefinition, MartyError
from marty_msf.core.user_values import as_json
from marty_msf.store import step_guard as store

#: `<saga>:<step>:<do|undo>:<n>`, as the worker sends it; n rises only when a person asks for the step anew.
KEY: Final = re.compile(
    r"(?P<saga>.{1,200}):(?P<step>[^:]{1,100}):(?P<direction>do|undo):(?P<number>[0-9]{1,9})", re.DOTALL
)


class StepTooLate(MartyError):
    """A do that comes after its undo, or after a newer call of the same step: nothing may happen. Answer with HTTP 409."""


class GuardedStep:
    """One call of a step, or of its undo, inside its guard."""

    def __init__(self, key: re.Match[str], row: store.Row) -> None:
        self.saga_id = key["saga"]
        self.name = key["step"]
        #: It is to be undone.
        self.undo = key["direction"] == "undo"
        #: What doing it answered; of an undo and of a person's new try. None: it was not done here, or refused.
        self.done: Any = None
        if row.do_answer is not None and not row.do_refused:
            self.done = orjson.loads(row.do_answer)
        #: Whether there is something to do: False for a duplicate, and for an undo of what never happened.
        self.fresh = True
        #: Kept with the effects when the block ends, and the same for every duplicate: any JSON value.
        self.answer: Any = {}
        #: The business says no: see `refuse`.
        self.refused = False

    def refuse(self, answer: Any) -> None:
        """Answer no, and the same to every duplicate. Nothing may have been changed: a refused step is not undone."""
        if self.undo:
            raise InvalidDefinition(f"undo of step {self.name!r}", "cannot be refused", "raise, to be called again")
        self.refused, self.answer = True, answer


@asynccontextmanager
async def step_guard(conn: Connection, idempotency_key: str) -> AsyncIterator[GuardedStep]:
    """Around the effects of a step call: `if step.fresh:` do (or undo) it and set `step.answer`.

    Works in the connection's transaction as a savepoint, or in one of its own; when the block raises, all is rolled back
    and the same call may come again. Calls of one step wait for each other. Raises StepTooLate for a do that must not
    happen any more, and InvalidDefinition for what is no key.
    """
    key = KEY.fullmatch(idempotency_key) if isinstance(idempotency_key, str) else None
    if key is None:
        raise InvalidDefinition(
            "idempotency_key", f"{idempotency_key!r} is not <saga>:<step>:<do|undo>:<n>", "pass the header on as it is"
        )
    async with conn.transaction():
        row = await store.lock(conn, key["saga"], key["step"])
        step = GuardedStep(key, row)
        if step.undo:
            _undoing(step, row)
        else:
            _doing(step, row, int(key["number"]))
        first = step.fresh or (step.undo and row.undo_answer is None)
        yield step
        if first:
            await _keep(conn, step, int(key["number"]))


async def forget_steps(conn: Connection, hours: int, limit: int = 1000) -> int:
    """Forget up to `limit` steps of which nothing was heard for so long; returns how many. Call it now and then.

    `hours` must be longer than any saga may take, parked ones included: a duplicate of a forgotten step is done again.
    """
    return await store.prune(conn, hours, limit)


def _undoing(step: GuardedStep, row: store.Row) -> None:
    if row.undo_answer is not None:
        step.fresh, step.answer = False, orjson.loads(row.undo_answer)
    elif row.do_number is None or row.do_refused:
        # What is kept now refuses the do that may still be on its way.
        step.fresh = False


def _doing(step: GuardedStep, row: store.Row, number: int) -> None:
    if row.do_number == number and row.do_answer is not None:
        # Also after its undo: that this call was answered so stays true.
        step.fresh, step.refused, step.answer = False, row.do_refused, orjson.loads(row.do_answer)
    elif row.undo_answer is not None:
        raise StepTooLate(f"step {step.name!r} of saga {step.saga_id} was undone before this call came: do nothing")
    elif row.do_number is not None and row.do_number > number:
        raise StepTooLate(
            f"step {step.name!r} of saga {step.saga_id}: call {number} comes after call {row.do_number}: do nothing"
        )


async def _keep(conn: Connection, step: GuardedStep, number: int) -> None:
    try:
        answer = as_json(step.answer).decode()
    except TypeError as error:
        raise InvalidDefinition(f"answer of step {step.name!r}", f"is no JSON ({error})", "set JSON values") from None
    if step.undo:
        await store.undone(conn, step.saga_id, step.name, answer)
    else:
        await store.done(conn, step.saga_id, step.name, number, refused=step.refused, answer=answer)
