-- What services have done and undone for sagas: recorded in the transaction of the effects.
CREATE TABLE marty.step_guard (
    saga_id     text COLLATE "C" NOT NULL CHECK (octet_length(saga_id) <= 512),
    step        text COLLATE "C" NOT NULL CHECK (octet_length(step) <= 512),
    do_number   integer,                        -- last part of the key of the newest do; NULL: none came yet
    do_refused  boolean     NOT NULL DEFAULT false,
    do_answer   text,                           -- JSON
    undo_answer text,                           -- set: undone, or undone before it was done; no do counts any more
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (saga_id, step)
) WITH (fillfactor = 70);
-- Rows lie about in the order of time, so this finds the old ones and costs the inserts next to nothing.
CREATE INDEX step_guard_changed ON marty.step_guard USING brin (changed_at) WITH (autosummarize = on);
