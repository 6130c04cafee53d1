-- What the services need to enqueue events, and no more: run by an administrator after `marty migrate`.
GRANT USAGE ON SCHEMA marty TO shop;
GRANT INSERT ON marty.outbox TO shop;
-- marty.enqueue_event returns the new row's id.
GRANT SELECT (id) ON marty.outbox TO shop;
