-- Replies to commands over Kafka, from the commit that moves the position behind them until they are in the journal.

CREATE TABLE marty.saga_reply (
    resource    text COLLATE "C" NOT NULL,  -- 'namespace/name' of the Saga
    id          uuid        NOT NULL,       -- the instance
    call        text COLLATE "C" NOT NULL,  -- the rest of the idempotency key: '<step>:<do|undo>:<number>'
    lane        smallint    NOT NULL CHECK (lane BETWEEN 0 AND 63),
    outcome     text        NOT NULL CHECK (outcome IN ('succeeded', 'rejected', 'failed')),
    value       bytea,                      -- NULL: larger than an answer may be
    received_at timestamptz NOT NULL DEFAULT now(),
    kept        boolean     NOT NULL DEFAULT false, -- no call waits for it now; the next one with its key takes it
    PRIMARY KEY (id, call)
);
-- What the owner of a lane looks for, and what is removed when it is old.
CREATE INDEX saga_reply_new ON marty.saga_reply (resource, lane) WHERE NOT kept;
CREATE INDEX saga_reply_kept ON marty.saga_reply (resource, received_at) WHERE kept;
