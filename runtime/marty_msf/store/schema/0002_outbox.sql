-- The transactional outbox: services insert in their own transactions, the relay reads by snapshot windows.

CREATE TABLE marty.outbox (
    xid            xid8        NOT NULL DEFAULT pg_current_xact_id(),   -- the writer: decides in which window a row is
    -- CACHE 1: two events of one aggregate, whose row the callers lock, get ascending ids whatever the sessions are.
    id             bigint      GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME marty.outbox_id_seq CACHE 1) PRIMARY KEY,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    lane           smallint    NOT NULL,
    event_id       uuid        NOT NULL DEFAULT gen_random_uuid(),
    topic          text        NOT NULL,
    event_type     text        NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text        NOT NULL,
    payload        bytea       NOT NULL,
    headers        jsonb                                                -- NULL: none of its own
);
-- New rows arrive at the right end; the relay reads from its cursor's xmax on, whatever the lane.
CREATE INDEX outbox_xid ON marty.outbox (xid);

-- One row per lane: how far the outbox was published. Belongs to the outbox, not to a relay, so that a relay with
-- another name goes on where the former one stopped.
CREATE TABLE marty.outbox_position (
    lane              smallint    PRIMARY KEY CHECK (lane BETWEEN 0 AND 63),
    prev              pg_snapshot NOT NULL,             -- everything visible in it was published
    next              pg_snapshot,                      -- end of the window being published; NULL between windows
    last_id           bigint      NOT NULL,             -- within the window: published up to here
    published_total   bigint      NOT NULL DEFAULT 0,
    system_identifier bigint      NOT NULL,             -- of the cluster whose transaction ids the snapshots name
    updated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (next IS NOT NULL OR last_id = 0)
) WITH (fillfactor = 30);                               -- updates stay HOT

CREATE TABLE marty.outbox_owner (
    singleton  boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    resource   text        NOT NULL,                    -- '<namespace>/<name>' of the only relay that may publish
    expires_at timestamptz NOT NULL
);

-- Adds an event to the caller's transaction; returns its id. Lock the aggregate first (an UPDATE of its row does it):
-- events of one aggregate are published in the order of these calls. SQLSTATEs: MA001 payload too large, MA002 topic,
-- MA003 headers, MA004 event type, aggregate id or payload missing or too long. `content-type` may be set in headers.
CREATE FUNCTION marty.enqueue_event_bytes(
    topic text, event_type text, payload bytea, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}'
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_id   bigint;
    v_name text;
BEGIN
    IF octet_length(payload) > 900000 THEN
        RAISE EXCEPTION 'payload of % bytes is over the limit of 900000', octet_length(payload)
            USING ERRCODE = 'MA001', HINT = 'Store the document elsewhere and send an identifier of it.';
    END IF;
    IF topic IS NULL OR topic !~ '^[a-zA-Z0-9._-]{1,249}$' OR topic IN ('.', '..') THEN
        RAISE EXCEPTION 'topic % is no Kafka topic name', quote_nullable(topic)
            USING ERRCODE = 'MA002', HINT = 'Use 1 to 249 letters, digits, dots, underscores and hyphens.';
    END IF;
    IF payload IS NULL OR aggregate_type IS NULL OR octet_length(aggregate_type) > 200
        OR event_type IS NULL OR octet_length(event_type) NOT BETWEEN 1 AND 200
        OR aggregate_id IS NULL OR octet_length(aggregate_id) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'event type %, aggregate type %, aggregate id % or payload is missing or too long',
            quote_nullable(left(event_type, 250)), quote_nullable(left(aggregate_type, 250)), quote_nullable(left(aggregate_id, 600))
            USING ERRCODE = 'MA004',
                  HINT = 'Give 1 to 200 bytes of event type, at most 200 of aggregate type, 1 to 512 of aggregate id, and a payload.';
    END IF;
    IF headers IS NULL OR headers = '{}' THEN
        headers := NULL;
    ELSE
        IF jsonb_typeof(headers) <> 'object' OR octet_length(headers::text) > 16384 THEN
            RAISE EXCEPTION 'headers must be a JSON object of at most 16384 bytes'
                USING ERRCODE = 'MA003', HINT = 'Give names and text values, for instance {"traceparent": "00-…"}.';
        END IF;
        SELECT h.key INTO v_name FROM jsonb_each(headers) AS h
         WHERE h.key !~ '^[A-Za-z0-9._-]{1,100}$' OR lower(h.key) LIKE 'ce\_%' OR jsonb_typeof(h.value) <> 'string' LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'header % is refused', quote_literal(left(v_name, 250))
                USING ERRCODE = 'MA003',
                      HINT = 'Names are 1 to 100 letters, digits, dots, underscores and hyphens, ce_… is reserved; values are text.';
        END IF;
    END IF;
    INSERT INTO marty.outbox (lane, topic, event_type, aggregate_type, aggregate_id, payload, headers)
    VALUES (marty.lane_of(aggregate_id), topic, event_type, aggregate_type, aggregate_id, payload, headers)
    RETURNING id INTO v_id;
    RETURN v_id;
END
$$;

-- The same for a JSON payload, which is sent as the UTF-8 bytes of its text.
CREATE FUNCTION marty.enqueue_event(
    topic text, event_type text, payload jsonb, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}'
) RETURNS bigint
LANGUAGE sql AS $$
    SELECT marty.enqueue_event_bytes(
        topic, event_type, convert_to(payload::text, 'UTF8'), aggregate_id, aggregate_type, headers)
$$;
