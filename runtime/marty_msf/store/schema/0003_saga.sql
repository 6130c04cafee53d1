-- Saga instances. The journal is the truth: folding it gives an instance exactly; saga_instance is its narrow summary.

-- Every definition that an instance may still follow; an instance names its revision and never changes it.
CREATE TABLE marty.saga_definition (
    resource    text COLLATE "C" NOT NULL,  -- 'namespace/name' of the Saga
    revision    text        NOT NULL,
    definition  bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (resource, revision)
);

CREATE TABLE marty.saga_instance (
    id           uuid        PRIMARY KEY,   -- version 7: sorts by time
    resource     text COLLATE "C" NOT NULL,
    lane         smallint    NOT NULL CHECK (lane BETWEEN 0 AND 63),
    revision     text        NOT NULL,      -- no foreign key: its check per row would cost more than the row
    business_key text        NOT NULL,
    state        text        NOT NULL CHECK (state IN
        ('Pending',         -- durable, no worker took it up yet
         'Running',         -- going forward
         'Compensating',    -- undoing what may have happened
         'Completed', 'Compensated',
         'Parked')),        -- waits for a person
    error        text,                      -- why it compensates or is parked
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    CONSTRAINT ended_instances_have_an_end CHECK ((ended_at IS NOT NULL) = (state IN ('Completed', 'Compensated')))
) WITH (fillfactor = 80);

-- What the owner of a lane loads, and what it looks for while it runs. Ended instances are in neither index.
CREATE INDEX saga_instance_live ON marty.saga_instance (resource, lane, id)
    WHERE state IN ('Pending', 'Running', 'Compensating');
CREATE INDEX saga_instance_pending ON marty.saga_instance (resource, lane, id) WHERE state = 'Pending';

-- Makes starting idempotent.
CREATE TABLE marty.saga_key (
    resource     text COLLATE "C" NOT NULL,     -- compared by bytes: the order of words means nothing here
    business_key text COLLATE "C" NOT NULL CHECK (length(business_key) BETWEEN 1 AND 512),
    id           uuid NOT NULL,
    PRIMARY KEY (resource, business_key)
);

-- The context an instance started with: a JSON object.
CREATE TABLE marty.saga_input (
    id      uuid  PRIMARY KEY,
    context bytea NOT NULL CHECK (octet_length(context) <= 262144)
);

-- Insert-only. An entry is an event, and the request body of the call that became durable with it.
CREATE TABLE marty.saga_journal (
    id    uuid    NOT NULL,
    seq   integer NOT NULL CHECK (seq > 0),
    entry bytea   NOT NULL,
    PRIMARY KEY (id, seq)       -- two writers of one instance: the second one fails
);

-- Totals of a saga, kept in the transaction of the work. Several rows, so that writers never wait for each other:
-- slots 0-63 belong to the owners of those lanes, the others to those who start instances.
CREATE TABLE marty.saga_counter (
    resource      text COLLATE "C" NOT NULL,
    slot          smallint NOT NULL,
    started       bigint   NOT NULL DEFAULT 0,
    completed     bigint   NOT NULL DEFAULT 0,
    compensated   bigint   NOT NULL DEFAULT 0,
    parked        bigint   NOT NULL DEFAULT 0,
    duration_ms   double precision NOT NULL DEFAULT 0,  -- sum over completed and compensated instances
    parked_events bigint   NOT NULL DEFAULT 0,
    last_error    text,
    last_error_at timestamptz,
    PRIMARY KEY (resource, slot)
) WITH (fillfactor = 50);

-- Events that match a trigger but cannot start an instance. They do not hold up the events behind them.
CREATE TABLE marty.saga_parked_event (
    resource   text COLLATE "C" NOT NULL,
    topic      text        NOT NULL,
    partition  integer     NOT NULL,
    "offset"   bigint      NOT NULL,
    event_id   text        NOT NULL,
    error      text        NOT NULL,
    key        bytea,
    value      bytea,
    parked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (resource, topic, partition, "offset")
);
