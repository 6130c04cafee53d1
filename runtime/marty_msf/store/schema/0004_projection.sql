-- Where each reader of Kafka stands, and what projections remember about the keys they applied.

-- Written in the transaction that stores the effects of the events before next_offset. No consumer group is involved.
CREATE TABLE marty.kafka_position (
    scope       text        NOT NULL,   -- the reader: '<role>:<namespace>/<name>'
    topic       text        NOT NULL,
    partition   integer     NOT NULL CHECK (partition >= 0),
    next_offset bigint      NOT NULL CHECK (next_offset >= 0),
    event_time  timestamptz,            -- Kafka's timestamp of the last event applied; NULL before the first
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, topic, partition)
) WITH (fillfactor = 50);

-- Totals of a projection, a row per partition so that its workers never wait for each other.
CREATE TABLE marty.projection_counter (
    scope       text    NOT NULL,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    processed   bigint  NOT NULL DEFAULT 0,
    duplicates  bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, topic, partition)
) WITH (fillfactor = 50);

-- Names (reader, partition, ce_source) by a small number, which keeps the rows of projection_key narrow.
CREATE TABLE marty.projection_stream (
    stream      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope       text    NOT NULL,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    source      bytea   NOT NULL,
    UNIQUE (scope, topic, partition, source)
);

-- The highest ce_martysequence applied for each message key: lower or equal ones are duplicates sent again by a relay.
CREATE TABLE marty.projection_key (
    stream      integer NOT NULL,
    key         bytea   NOT NULL,
    sequence    bigint  NOT NULL,
    PRIMARY KEY (stream, key)
) WITH (fillfactor = 70);

-- The only writer of each read-model table. Outlives the Projection: its rows do so, too.
CREATE TABLE marty.projection_table (
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    resource    text        NOT NULL,   -- '<namespace>/<name>'
    claimed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schema_name, table_name)
);

-- Makes a stopped projection read all its topics again, from the earliest event Kafka has, and gives its table up to
-- the first projection that starts. `p_resource` is 'namespace/name'. Empty the read-model table in the same
-- transaction: its rows stay otherwise.
CREATE FUNCTION marty.reset_projection(p_resource text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_scope text := 'projection:' || p_resource;
BEGIN
    IF EXISTS (SELECT 1 FROM marty.worker w
                WHERE starts_with(w.scope, v_scope || '#') AND w.expires_at > clock_timestamp()) THEN
        RAISE EXCEPTION 'projection % is running', p_resource
            USING ERRCODE = 'object_in_use', HINT = 'Set spec.state to Stopped and wait until its pods are gone.';
    END IF;
    DELETE FROM marty.projection_key k USING marty.projection_stream s WHERE s.scope = v_scope AND k.stream = s.stream;
    DELETE FROM marty.projection_stream s WHERE s.scope = v_scope;
    DELETE FROM marty.projection_counter c WHERE c.scope = v_scope;
    DELETE FROM marty.kafka_position p WHERE p.scope = v_scope;
    DELETE FROM marty.projection_table t WHERE t.resource = p_resource;
END
$$;
