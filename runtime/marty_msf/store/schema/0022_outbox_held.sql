-- Events that the relay's cursor has passed and that are not published: they wait for a time, for their next attempt,
-- behind another one of their aggregate, or for a person (dead letters). Whole copies, so that the outbox's slots can be
-- emptied meanwhile.

CREATE TABLE marty.outbox_held (
    id              bigint      PRIMARY KEY,            -- of the outbox: the order of an aggregate's events
    lane            smallint    NOT NULL,
    state           text        NOT NULL CHECK (state IN (
                        'Delayed',                      -- its deliver_after is still to come
                        'Waiting',                      -- behind another one of its aggregate, or to be sent next
                        'Retrying',                     -- refused, or its topic is missing: tried again at due_at
                        'Dead')),                       -- given up: only a person's verb moves it
    -- Whether events of its aggregate that come later wait for it. False without an aggregate, and for dead letters of
    -- a relay whose deadLetter.blocking is None.
    in_order        boolean     NOT NULL,
    -- When it is to be sent; NULL for dead ones and for all but the first of an aggregate.
    due_at          timestamptz,
    attempts        integer     NOT NULL DEFAULT 0,
    cause           text,                               -- fingerprint of the last error, see marty.outbox_cause
    error           text,
    first_failed_at timestamptz,
    last_failed_at  timestamptz,
    copied          boolean     NOT NULL DEFAULT false, -- dead, and the dead-letter topic has it
    held_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at      timestamptz NOT NULL,
    event_id        uuid        NOT NULL,
    topic           text        NOT NULL,
    event_type      text        NOT NULL,
    aggregate_type  text        NOT NULL,
    aggregate_id    text,
    payload         bytea       NOT NULL,
    headers         jsonb,
    priority        smallint    NOT NULL,
    max_attempts    smallint,
    deliver_after   timestamptz,
    message_key     text,
    CHECK (state <> 'Dead' OR due_at IS NULL)
);
CREATE INDEX outbox_held_due ON marty.outbox_held (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX outbox_held_aggregate ON marty.outbox_held (aggregate_id, id);
CREATE INDEX outbox_held_dead ON marty.outbox_held (cause, id) WHERE state = 'Dead';
CREATE INDEX outbox_held_uncopied ON marty.outbox_held (id) WHERE state = 'Dead' AND NOT copied;

-- Why events died: one row per cause, counted in the transactions that make dead letters and take them away.
CREATE TABLE marty.outbox_cause (
    cause      text        PRIMARY KEY,                 -- twelve hex digits: see core.outbox.cause
    error_type text        NOT NULL,
    topic      text        NOT NULL,
    event_type text        NOT NULL,
    message    text        NOT NULL,                    -- with numbers, ids and quoted values replaced
    dead       bigint      NOT NULL,                    -- dead letters there are now
    dead_total bigint      NOT NULL,                    -- ever
    sample_id  bigint      NOT NULL,                    -- of the newest
    first_at   timestamptz NOT NULL,
    last_at    timestamptz NOT NULL
);

-- Events that were published before the cursor came by, for their priority: the cursor passes over them.
CREATE TABLE marty.outbox_ahead (
    id   bigint   PRIMARY KEY,
    lane smallint NOT NULL
);
CREATE INDEX outbox_ahead_lane ON marty.outbox_ahead (lane);

-- Counters beside the position, written with it.
ALTER TABLE marty.outbox_position
    ADD COLUMN failed_total bigint NOT NULL DEFAULT 0,  -- attempts that were refused
    ADD COLUMN dead_total   bigint NOT NULL DEFAULT 0,  -- events given up, ever
    ADD COLUMN held         bigint NOT NULL DEFAULT 0,  -- rows in marty.outbox_held that are not dead
    ADD COLUMN dead         bigint NOT NULL DEFAULT 0;  -- rows there that are

-- What people did to dead letters and to the outbox.
CREATE TABLE marty.outbox_verb (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    verb     text        NOT NULL,                      -- redrive, discard, edit, reset-cursor, accept-loss
    who      text        NOT NULL,
    why      text        NOT NULL DEFAULT '',
    what     jsonb       NOT NULL,                      -- what was chosen: filter, ids, the event as it was before an edit
    affected bigint      NOT NULL
);
