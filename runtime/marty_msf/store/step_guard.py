"""Every statement that touches `marty.step_guard`: what services have done and undone for sagas. Callers own the transaction."""

from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

from marty_msf.store.session import schema_told


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a step; the answers are JSON."""

    do_number: int | None
    do_refused: bool
    do_answer: str | None
    undo_answer: str | None


# The update changes nothing but locks the row, so that a do and its undo that come together run one after the other.
LOCK: Final = """
INSERT INTO marty.step_guard AS g (saga_id, step) VALUES ($1, $2)
ON CONFLICT (saga_id, step) DO UPDATE SET step = g.step
RETURNING do_number, do_refused, do_answer, undo_answer
"""


async def lock(conn: Connection, saga_id: str, step: str) -> Row:
    """The step's row, made if there is none, locked until the transaction ends."""
    with schema_told():
        return Row(*await conn.fetchrow(LOCK, saga_id, step))


DONE: Final = """
UPDATE marty.step_guard
   SET do_number = $3, do_refused = $4, do_answer = $5, changed_at = clock_timestamp()
 WHERE saga_id = $1 AND step = $2
"""


async def done(conn: Connection, saga_id: str, step: str, number: int, *, refused: bool, answer: str) -> None:
    """The step was done, or refused, by the call with this number."""
    await conn.execute(DONE, saga_id, step, number, refused, answer)


UNDONE: Final = """
UPDATE marty.step_guard SET undo_answer = $3, changed_at = clock_timestamp()
 WHERE saga_id = $1 AND step = $2
"""


async def undone(conn: Connection, saga_id: str, step: str, answer: str) -> None:
    """The step was undone, or is never to be done."""
    await conn.execute(UNDONE, saga_id, step, answer)


PRUNE: Final = """
WITH old AS (
    SELECT saga_id, step FROM marty.step_guard
     WHERE changed_at < clock_timestamp() - $1::integer * interval '1 hour'
     LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM marty.step_guard AS g USING old WHERE g.saga_id = old.saga_id AND g.step = old.step RETURNING true
)
SELECT count(*) FROM gone
"""


async def prune(conn: Connection, hours: int, limit: int) -> int:
    """Forget up to `limit` steps that nothing was heard of for so long; returns how many."""
    gone: int = await conn.fetchval(PRUNE, hours, limit)
    return gone
