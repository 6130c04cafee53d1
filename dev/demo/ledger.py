"""An independent witness: a trigger in the shop's database writes down every event that enters the outbox."""

from typing import Final

import asyncpg

from dev.cluster.errors import ClusterError

#: The identity is drawn inside the writer's transaction while it holds the order's row lock, so within one order id
#: `sequence` rises in the order of the commits. Definer's rights: the services get no rights on the ledger.
INSTALL: Final = """
CREATE SCHEMA IF NOT EXISTS ledger;
CREATE TABLE IF NOT EXISTS ledger.enqueued (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    order_id text NOT NULL
);
CREATE OR REPLACE FUNCTION ledger.record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO ledger.enqueued (event_id, order_id) VALUES (NEW.event_id, NEW.aggregate_id);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER demo_ledger AFTER INSERT ON marty.outbox
    FOR EACH ROW EXECUTE FUNCTION ledger.record();
"""

UNSEEN: Final = """
SELECT count(*) FROM marty.outbox WHERE event_id NOT IN (SELECT event_id FROM ledger.enqueued)
"""


async def install(database: asyncpg.Connection) -> None:
    """Safe to repeat. ClusterError when events were enqueued before the ledger watched: it would be no witness."""
    async with database.transaction():
        await database.execute(INSTALL)
        unseen = await database.fetchval(UNSEEN)
    if unseen:
        raise ClusterError(
            f"{unseen} events are in the outbox that the ledger did not see: take the demo down and start it again"
        )
