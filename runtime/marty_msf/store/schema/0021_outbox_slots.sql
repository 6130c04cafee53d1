-- The outbox in four slots that are filled one after the other: what is published and old is emptied with a slot at once,
-- never row by row. And what an event may ask for: a priority, a number of attempts, a time, a Kafka key of its own.
-- Existing events become slot 0; that reads them from end to end once, while nobody else can use the table.

LOCK TABLE marty.outbox IN ACCESS EXCLUSIVE MODE;

-- Which slot new events go to. Two writers may follow different values for a moment: a slot decides about nothing but
-- when a row is removed.
CREATE TABLE marty.outbox_slot (
    singleton boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    slot      smallint    NOT NULL CHECK (slot BETWEEN 0 AND 3),
    since     timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO marty.outbox_slot (slot) VALUES (0);
GRANT SELECT ON marty.outbox_slot TO PUBLIC;

CREATE FUNCTION marty.current_outbox_slot() RETURNS smallint
LANGUAGE sql STABLE AS $$
    SELECT slot FROM marty.outbox_slot
$$;

ALTER TABLE marty.outbox RENAME TO outbox_0;
ALTER INDEX marty.outbox_pkey RENAME TO outbox_0_pkey;
ALTER INDEX marty.outbox_xid RENAME TO outbox_0_xid_idx;
ALTER TABLE marty.outbox_0
    ALTER COLUMN aggregate_id DROP NOT NULL,                                -- NULL: the event has no order
    ADD COLUMN slot          smallint NOT NULL DEFAULT 0,
    ADD COLUMN priority      smallint NOT NULL DEFAULT 1 CHECK (priority BETWEEN 0 AND 2),  -- low, normal, high
    ADD COLUMN max_attempts  smallint CHECK (max_attempts BETWEEN 1 AND 1000),              -- NULL: the relay's
    ADD COLUMN deliver_after timestamptz,                                   -- NULL: at once
    ADD COLUMN message_key   text;                                          -- NULL: the aggregate id is Kafka's key

CREATE TABLE marty.outbox (LIKE marty.outbox_0 INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY LIST (slot);
ALTER TABLE marty.outbox ALTER COLUMN slot SET DEFAULT marty.current_outbox_slot();

DO $$
DECLARE
    v_next  bigint := (SELECT last_value + is_called::int FROM marty.outbox_id_seq);
    v_grant record;
    v_slot  integer;
BEGIN
    ALTER TABLE marty.outbox_0 ALTER COLUMN id DROP IDENTITY;
    EXECUTE format('ALTER TABLE marty.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY '
                   '(SEQUENCE NAME marty.outbox_id_seq CACHE 1 START %s)', v_next);
    -- Who had rights on the outbox has the same on the table that bears its name now.
    FOR v_grant IN
        SELECT a.grantee, a.privilege_type, a.is_grantable, NULL::name AS column_name
          FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.oid = 'marty.outbox_0'::regclass AND a.grantee <> c.relowner
        UNION ALL
        SELECT a.grantee, a.privilege_type, a.is_grantable, t.attname
          FROM pg_attribute t, aclexplode(t.attacl) a
         WHERE t.attrelid = 'marty.outbox_0'::regclass
    LOOP
        EXECUTE format('GRANT %s%s ON marty.outbox TO %s%s', v_grant.privilege_type, '(' || quote_ident(v_grant.column_name) || ')',
                       CASE WHEN v_grant.grantee = 0 THEN 'PUBLIC' ELSE v_grant.grantee::regrole::text END,
                       CASE WHEN v_grant.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    FOR v_slot IN 1 .. 3 LOOP
        EXECUTE format('CREATE TABLE marty.%I (LIKE marty.outbox_0 INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (id))',
                       'outbox_' || v_slot);
    END LOOP;
    FOR v_slot IN 0 .. 3 LOOP
        EXECUTE format('ALTER TABLE marty.outbox ATTACH PARTITION marty.%I FOR VALUES IN (%s)', 'outbox_' || v_slot, v_slot);
    END LOOP;
END
$$;
-- New rows arrive at the right end; the relay reads from its cursor's xmax on, whatever the lane.
CREATE INDEX outbox_xid ON marty.outbox (xid);
-- The few that go out before others, however many are waiting.
CREATE INDEX outbox_high ON marty.outbox (xid) WHERE priority = 2;
-- The events of one aggregate: those that go out before one of high priority, and for people who look for them.
CREATE INDEX outbox_aggregate ON marty.outbox (aggregate_id, xid);

DROP FUNCTION marty.enqueue_event(text, text, jsonb, text, text, jsonb);
DROP FUNCTION marty.enqueue_event_bytes(text, text, bytea, text, text, jsonb);

CREATE FUNCTION marty.priority_of(p_name text) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE p_name WHEN 'normal' THEN 1 WHEN 'high' THEN 2 WHEN 'low' THEN 0 END::smallint
$$;

-- Adds an event to the caller's transaction; returns its id. Lock the aggregate first (an UPDATE of its row does it):
-- events of one aggregate are published in the order of these calls. An event without an aggregate has no order, and one
-- with deliver_after holds those of its aggregate that come behind it. SQLSTATEs: MA001 payload too large, MA002 topic,
-- MA003 headers, MA004 event type, aggregate or payload missing or too long, MA005 priority, attempts or Kafka key.
-- `content-type` may be set in headers.
CREATE FUNCTION marty.enqueue_event_bytes(
    topic text, event_type text, payload bytea, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}', priority text DEFAULT 'normal',
    max_delivery_attempts integer DEFAULT NULL, deliver_after timestamptz DEFAULT NULL, message_key text DEFAULT NULL
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
        OR octet_length(aggregate_id) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'event type %, aggregate type %, aggregate id % or payload is missing or too long',
            quote_nullable(left(event_type, 250)), quote_nullable(left(aggregate_type, 250)), quote_nullable(left(aggregate_id, 600))
            USING ERRCODE = 'MA004',
                  HINT = 'Give 1 to 200 bytes of event type, at most 200 of aggregate type, 1 to 512 of aggregate id or NULL for an event without order, and a payload.';
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
    IF marty.priority_of(priority) IS NULL THEN
        RAISE EXCEPTION 'priority % is unknown', quote_nullable(left(priority, 250))
            USING ERRCODE = 'MA005', HINT = 'Use high, normal or low.';
    END IF;
    IF max_delivery_attempts NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'max_delivery_attempts % is out of range', max_delivery_attempts
            USING ERRCODE = 'MA005', HINT = 'Give 1 to 1000, or NULL for what the relay is set to.';
    END IF;
    IF octet_length(message_key) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'message_key of % bytes is out of range', octet_length(message_key)
            USING ERRCODE = 'MA005', HINT = 'Give 1 to 512 bytes, or NULL to use the aggregate id.';
    END IF;
    INSERT INTO marty.outbox (slot, lane, topic, event_type, aggregate_type, aggregate_id, payload, headers, priority,
                              max_attempts, deliver_after, message_key)
    SELECT s.slot, marty.lane_of(coalesce(aggregate_id, gen_random_uuid()::text)), topic, event_type, aggregate_type,
           aggregate_id, payload, headers, marty.priority_of(priority), max_delivery_attempts, deliver_after, message_key
      FROM marty.outbox_slot s
    RETURNING id INTO v_id;
    RETURN v_id;
END
$$;

-- The same for a JSON payload, which is sent as the UTF-8 bytes of its text.
CREATE FUNCTION marty.enqueue_event(
    topic text, event_type text, payload jsonb, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}', priority text DEFAULT 'normal',
    max_delivery_attempts integer DEFAULT NULL, deliver_after timestamptz DEFAULT NULL, message_key text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
    SELECT marty.enqueue_event_bytes(
        topic, event_type, convert_to(payload::text, 'UTF8'), aggregate_id, aggregate_type, headers, priority,
        max_delivery_attempts, deliver_after, message_key)
$$;

-- Many events in one call, in the order of the array: objects with the names of marty.enqueue_event's arguments. Returns
-- their ids in that order. All or none.
CREATE FUNCTION marty.enqueue_events(events jsonb) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_event   jsonb;
    v_ids     bigint[] := '{}';
    v_unknown text;
BEGIN
    IF jsonb_typeof(events) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'events is no JSON array' USING ERRCODE = 'MA004', HINT = 'Give an array of objects.';
    END IF;
    FOR v_event IN SELECT value FROM jsonb_array_elements(events) WITH ORDINALITY ORDER BY ordinality LOOP
        IF jsonb_typeof(v_event) <> 'object' THEN
            RAISE EXCEPTION 'event % of the array is no object', cardinality(v_ids)
                USING ERRCODE = 'MA004', HINT = 'Give objects with the names of marty.enqueue_event''s arguments.';
        END IF;
        SELECT k INTO v_unknown FROM jsonb_object_keys(v_event) AS k
         WHERE k NOT IN ('topic', 'event_type', 'payload', 'aggregate_id', 'aggregate_type', 'headers', 'priority',
                         'max_delivery_attempts', 'deliver_after', 'message_key') LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'event % of the array has an unknown field %', cardinality(v_ids), quote_literal(left(v_unknown, 250))
                USING ERRCODE = 'MA004', HINT = 'Use the names of marty.enqueue_event''s arguments.';
        END IF;
        v_ids := v_ids || marty.enqueue_event(
            v_event ->> 'topic', v_event ->> 'event_type', v_event -> 'payload', v_event ->> 'aggregate_id',
            coalesce(v_event ->> 'aggregate_type', ''), nullif(v_event -> 'headers', 'null'), coalesce(v_event ->> 'priority', 'normal'),
            (v_event ->> 'max_delivery_attempts')::integer, (v_event ->> 'deliver_after')::timestamptz,
            v_event ->> 'message_key');
    END LOOP;
    RETURN v_ids;
END
$$;

-- Wakes a relay that waits for its next look. A hint: call it after the commit, in a statement of its own, never inside
-- the transaction that enqueues, because transactions that notify commit one after the other.
CREATE FUNCTION marty.wake_relay() RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('marty_outbox', '')
$$;
