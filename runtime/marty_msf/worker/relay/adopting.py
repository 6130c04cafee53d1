"""Makes the writes that a lane's former owner had committed to Kafka and not to the database."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from asyncpg import Connection

from marty_msf.core.outbox.transaction import Note, decode, is_missing
from marty_msf.store import leases, outbox_position, outbox_transaction
from marty_msf.worker.relay.notes import exceptions_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    """As whom the relay writes to the database."""

    scope: str
    holder: str
    resource: str


async def check_ours(conn: Connection, who: Who, epochs: Mapping[int, int]) -> None:
    """Inside the caller's transaction: until it ends the lanes, and the outbox, go to nobody else. Raises LeaseLost."""
    await leases.fence(conn, who.scope, who.holder, epochs)
    await outbox_position.check_owner(conn, who.resource)


async def adopt(
    conn: Connection, who: Who, epochs: Mapping[int, int], texts: Mapping[int, str], *, dead_block: bool
) -> outbox_transaction.Now:
    """Inside the caller's transaction, after the lanes' ids were fenced; `texts` are their last notes.

    Raises LeaseLost, nothing written, when a lane is not ours any more: whoever has it fences it after us, unless we had
    been too late; so that no lane is sent of before this has succeeded behind its fence.
    """
    await check_ours(conn, who, epochs)
    now = await outbox_transaction.now(conn)
    if missing := await _missing(conn, texts, now):
        logger.warning(
            "%d lanes: Kafka has committed %d events whose position was not written: they are not sent again",
            len(missing),
            sum(note.published for note in missing.values()),
        )
        await outbox_position.store(
            conn,
            who.scope,
            who.holder,
            who.resource,
            {lane: epochs[lane] for lane in missing},
            {lane: note.after for lane, note in missing.items() if note.after is not None},
            {lane: note.published for lane, note in missing.items()},
            exceptions_of(missing),
            dead_block=dead_block,
        )
    return now


async def _missing(conn: Connection, texts: Mapping[int, str], now: outbox_transaction.Now) -> Mapping[int, Note]:
    notes = {lane: note for lane, text in texts.items() if (note := decode(text)) is not None}
    if not notes:
        return {}
    stored = await outbox_position.load(conn, sorted(notes))
    ahead = await outbox_position.ahead(conn, sorted(notes))
    missing = {
        lane: note for lane, note in notes.items() if is_missing(note, stored[lane], now.history, now.next_xid, ahead)
    }
    there = await outbox_transaction.present(conn, dict(note.last for note in missing.values()))
    return {lane: note for lane, note in missing.items() if note.last[0] in there}
