-- Idempotent consumption of events by services: an event's identity is recorded in the transaction of its effects.

-- Insert-only, but for the removal of what is older than any redelivery.
CREATE TABLE marty.inbox (
    consumer    text COLLATE "C" NOT NULL,  -- who handled it: 'events:<namespace>/<name>'
    source      text COLLATE "C" NOT NULL CHECK (octet_length(source) <= 1024),
    event_id    text COLLATE "C" NOT NULL CHECK (octet_length(event_id) <= 1024),
    handled_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id, source)
);
-- Rows lie in the order of time, so this finds the old ones and costs the inserts next to nothing.
CREATE INDEX inbox_handled ON marty.inbox USING brin (handled_at) WITH (autosummarize = on);

-- Events whose handler failed for good, and what came behind them with the same key: those wait, the others go on.
CREATE TABLE marty.inbox_parked (
    consumer    text COLLATE "C" NOT NULL,
    number      bigint      GENERATED ALWAYS AS IDENTITY,   -- the order of a key's events
    source      text COLLATE "C" NOT NULL CHECK (octet_length(source) <= 1024),
    event_id    text COLLATE "C" NOT NULL CHECK (octet_length(event_id) <= 1024),
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    key         bytea,                      -- NULL: without a key there is no order to keep
    headers     jsonb       NOT NULL,
    value       bytea,
    attempts    integer     NOT NULL,       -- 0: it was never tried, it waits behind another one
    error       text        NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id, source)
);
-- By a hash, because a key may be longer than a row of an index.
CREATE INDEX inbox_parked_key ON marty.inbox_parked (consumer, md5(key), number);
