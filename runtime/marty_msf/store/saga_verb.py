"""Every statement that touches `marty.saga_verb`: what people ask of instances, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.user_values import kept

ASK: Final = """
INSERT INTO marty.saga_verb (resource, instance, lane, verb, arguments, asked_by)
SELECT i.resource, i.id, i.lane, $2, $3, $4
  FROM unnest($1::uuid[]) WITH ORDINALITY AS a (id, place) JOIN marty.saga_instance AS i ON i.id = a.id
 ORDER BY a.place
RETURNING id, instance
"""


async def ask(conn: Connection, instances: Sequence[UUID], verb: str, arguments: bytes, by: str) -> dict[int, UUID]:
    """Ask the owners of these instances; by the verb's id the instance. Those that do not exist are left out."""
    return {row[0]: row[1] for row in await conn.fetch(ASK, list(instances), verb, arguments, by)}


@dataclass(frozen=True, slots=True)
class Asked:
    """A verb nobody answered yet, with the instance as the tables hold it."""

    number: int
    verb: str
    arguments: bytes
    by: str
    instance: UUID
    lane: int
    revision: str
    started_ms: int
    context: bytes
    entries: Sequence[bytes]
    traceparent: str | None


# Verb and journal come from one snapshot: a verb that is open here and stands in the journal was done before a crash.
OPEN: Final = """
SELECT v.id, v.verb, v.arguments, v.asked_by, v.instance, v.lane, i.revision,
       (extract(epoch FROM i.started_at) * 1000)::bigint,
       (SELECT s.context FROM marty.saga_input AS s WHERE s.id = i.id),
       ARRAY(SELECT j.entry FROM marty.saga_journal AS j WHERE j.id = i.id ORDER BY j.seq),
       (SELECT s.traceparent FROM marty.saga_input AS s WHERE s.id = i.id)
  FROM marty.saga_verb AS v JOIN marty.saga_instance AS i ON i.id = v.instance
 WHERE v.resource = $1 AND v.lane = ANY($2::smallint[]) AND v.done IS NULL
   AND v.id <> ALL($3::bigint[])
   AND NOT EXISTS (SELECT FROM marty.saga_verb AS before
                    WHERE before.instance = v.instance AND before.id < v.id AND before.done IS NULL)
 ORDER BY v.id
 LIMIT $4
"""


async def open_verbs(
    conn: Connection, resource: str, lanes: Sequence[int], besides: Sequence[int], limit: int
) -> list[Asked]:
    """The oldest unanswered verb of each instance in these lanes, but not those that are in work (`besides`)."""
    return [Asked(*row) for row in await conn.fetch(OPEN, resource, list(lanes), list(besides), limit)]


ANSWER: Final = """
UPDATE marty.saga_verb AS v
   SET done = a.done, answer = a.answer, answered_at = clock_timestamp()
  FROM unnest($1::bigint[], $2::boolean[], $3::text[]) AS a (id, done, answer)
 WHERE v.id = a.id AND v.done IS NULL
"""


async def answer(conn: Connection, answers: Sequence[tuple[int, bool, str]]) -> None:
    """Say what became of verbs: id, whether it was done, and what was done or why not. The first answer stays."""
    numbers, done, texts = zip(*answers, strict=True)
    await conn.execute(ANSWER, list(numbers), list(done), [kept(text) for text in texts])


# The lease is held as for a wave. Nothing is written when it went to another owner, or when the instance went on.
MIGRATE: Final = """
WITH held AS MATERIALIZED (
    SELECT l.lane FROM marty.lease AS l WHERE l.scope = $1 AND l.holder = $2 AND l.lane = $3 AND l.epoch = $4
       FOR SHARE OF l
), journaled AS (
    INSERT INTO marty.saga_journal (id, seq, entry) SELECT $5, $6, $7 FROM held ON CONFLICT (id, seq) DO NOTHING
    RETURNING id
), moved AS (
    UPDATE marty.saga_instance AS i SET revision = $8 FROM journaled WHERE i.id = journaled.id RETURNING i.id
)
UPDATE marty.saga_verb AS v SET done = true, answer = $10, answered_at = clock_timestamp()
  FROM moved WHERE v.id = $9 AND v.done IS NULL
RETURNING v.id
"""


async def migrate(
    conn: Connection,
    asked: Asked,
    *,
    scope: str,
    holder: str,
    epoch: int,
    seq: int,
    entry: bytes,
    revision: str,
    answer: str,
) -> bool:
    """Journal that an instance moved to another revision, and answer the verb; False when nothing was written."""
    found = await conn.fetchval(
        MIGRATE,
        scope,
        holder,
        asked.lane,
        epoch,
        asked.instance,
        seq,
        entry,
        revision,
        asked.number,
        answer,
    )
    return found is not None


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb with its answer, for people; `done` is None as long as nobody answered."""

    number: int
    instance: UUID
    verb: str
    arguments: bytes
    by: str
    asked_at: datetime
    done: bool | None
    answer: str | None
    answered_at: datetime | None


OF_INSTANCES: Final = """
SELECT id, instance, verb, arguments, asked_by, asked_at, done, answer, answered_at
  FROM marty.saga_verb WHERE instance = ANY($1::uuid[]) ORDER BY id
"""


async def of_instances(conn: Connection, instances: Sequence[UUID]) -> list[Verb]:
    """Everything people asked of these instances, in order."""
    return [Verb(*row) for row in await conn.fetch(OF_INSTANCES, list(instances))]


ANSWERS: Final = """
SELECT id, instance, verb, arguments, asked_by, asked_at, done, answer, answered_at
  FROM marty.saga_verb WHERE id = ANY($1::bigint[]) ORDER BY id
"""


async def answers(conn: Connection, numbers: Sequence[int]) -> list[Verb]:
    """These verbs as they are now."""
    return [Verb(*row) for row in await conn.fetch(ANSWERS, list(numbers))]


WORKED: Final = """
SELECT EXISTS (SELECT FROM marty.worker WHERE scope = $1 AND expires_at > clock_timestamp())
"""


async def has_worker(conn: Connection, scope: str) -> bool:
    """Whether a process is alive that could answer the verbs of this scope (`saga:namespace/name`)."""
    alive: bool = await conn.fetchval(WORKED, scope)
    return alive
