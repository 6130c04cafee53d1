-- Many events in one call are one INSERT: each event of a batch cost its writer as much as one of its own.

-- Whether an event needs no closer look. Postgres puts it into the statement that calls it.
CREATE FUNCTION marty.is_usual_event(
    topic text, event_type text, payload bytea, aggregate_id text, aggregate_type text, headers jsonb, priority text,
    max_delivery_attempts integer, deliver_after timestamptz, message_key text
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (octet_length(payload) <= 900000
            AND octet_length(topic) BETWEEN 1 AND 249 AND topic !~ '[^a-zA-Z0-9._-]' AND topic NOT IN ('.', '..') AND topic NOT LIKE '\_\_%'
            AND octet_length(event_type) BETWEEN 1 AND 200 AND octet_length(aggregate_type) <= 200
            AND octet_length(aggregate_id) BETWEEN 1 AND 512 AND headers = '{}' AND priority IN ('high', 'normal', 'low')
            AND max_delivery_attempts IS NULL AND deliver_after IS NULL AND message_key IS NULL) IS TRUE
$$;

-- The closer look: true, or the reason why this is no event. SQLSTATEs: MA001 payload too large, MA002 topic, MA003 headers,
-- MA004 event type, aggregate or payload missing or too long, MA005 priority, attempts, time or Kafka key.
CREATE FUNCTION marty.check_event(
    topic text, event_type text, payload bytea, aggregate_id text, aggregate_type text, headers jsonb, priority text,
    max_delivery_attempts integer, deliver_after timestamptz, message_key text
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    v_name text;
BEGIN
    IF octet_length(payload) > 900000 THEN
        RAISE EXCEPTION 'payload of % bytes is over the limit of 900000', octet_length(payload)
            USING ERRCODE = 'MA001', HINT = 'Store the document elsewhere and send an identifier of it.';
    END IF;
    IF topic IS NULL OR octet_length(topic) NOT BETWEEN 1 AND 249 OR topic ~ '[^a-zA-Z0-9._-]' OR topic IN ('.', '..') THEN
        RAISE EXCEPTION 'topic % is no Kafka topic name', quote_nullable(topic)
            USING ERRCODE = 'MA002', HINT = 'Use 1 to 249 letters, digits, dots, underscores and hyphens.';
    END IF;
    IF topic IN ('__consumer_offsets', '__transaction_state', '__share_group_state', '__cluster_metadata') THEN
        RAISE EXCEPTION 'topic % is Kafka''s own, where nobody else may write', quote_literal(topic)
            USING ERRCODE = 'MA002', HINT = 'Use another topic.';
    END IF;
    IF payload IS NULL THEN
        RAISE EXCEPTION 'payload is missing' USING ERRCODE = 'MA004', HINT = 'Give a payload; an empty one is one.';
    END IF;
    IF event_type IS NULL OR octet_length(event_type) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'event_type % is missing or has more than 200 bytes', quote_nullable(left(event_type, 250))
            USING ERRCODE = 'MA004', HINT = 'Give 1 to 200 bytes.';
    END IF;
    IF aggregate_type IS NULL OR octet_length(aggregate_type) > 200 THEN
        RAISE EXCEPTION 'aggregate_type % is NULL or has more than 200 bytes', quote_nullable(left(aggregate_type, 250))
            USING ERRCODE = 'MA004', HINT = 'Give at most 200 bytes.';
    END IF;
    IF octet_length(aggregate_id) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'aggregate_id % is empty or has more than 512 bytes', quote_literal(left(aggregate_id, 600))
            USING ERRCODE = 'MA004', HINT = 'Give 1 to 512 bytes, or NULL for an event without order.';
    END IF;
    IF headers <> '{}' THEN
        IF jsonb_typeof(headers) <> 'object' OR octet_length(headers::text) > 16384 THEN
            RAISE EXCEPTION 'headers must be a JSON object of at most 16384 bytes'
                USING ERRCODE = 'MA003', HINT = 'Give names and text values, for instance {"traceparent": "00-…"}.';
        END IF;
        SELECT h.key INTO v_name FROM jsonb_each(headers) AS h
         WHERE octet_length(h.key) NOT BETWEEN 1 AND 100 OR h.key ~ '[^A-Za-z0-9._-]' OR lower(h.key) LIKE 'ce\_%'
            OR jsonb_typeof(h.value) <> 'string' LIMIT 1;
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
    IF NOT isfinite(deliver_after) THEN
        RAISE EXCEPTION 'deliver_after % is no time', deliver_after
            USING ERRCODE = 'MA005', HINT = 'Give a time, or NULL for at once; an event that never goes would hold its aggregate for ever.';
    END IF;
    IF octet_length(message_key) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'message_key of % bytes is out of range', octet_length(message_key)
            USING ERRCODE = 'MA005', HINT = 'Give 1 to 512 bytes, or NULL to use the aggregate id.';
    END IF;
    RETURN true;
END
$$;

-- Adds an event to the caller's transaction; returns its id. Lock the aggregate first (an UPDATE of its row does it):
-- events of one aggregate are published in the order of these calls. An event without an aggregate has no order, and one
-- with deliver_after holds those of its aggregate that come behind it. SQLSTATEs: those of marty.check_event.
-- `content-type` may be set in headers. event_id becomes ce_id; NULL: one is made.
CREATE OR REPLACE FUNCTION marty.enqueue_event_bytes(
    topic text, event_type text, payload bytea, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}', priority text DEFAULT 'normal',
    max_delivery_attempts integer DEFAULT NULL, deliver_after timestamptz DEFAULT NULL, message_key text DEFAULT NULL, event_id uuid DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_id bigint;
BEGIN
    IF NOT marty.is_usual_event(topic, event_type, payload, aggregate_id, aggregate_type, headers, priority,
                                max_delivery_attempts, deliver_after, message_key) THEN
        PERFORM marty.check_event(topic, event_type, payload, aggregate_id, aggregate_type, headers, priority,
                                  max_delivery_attempts, deliver_after, message_key);
    END IF;
    INSERT INTO marty.outbox (slot, lane, topic, event_type, aggregate_type, aggregate_id, payload, headers, priority,
                              max_attempts, deliver_after, message_key, event_id)
    VALUES ((SELECT s.slot FROM marty.outbox_slot s), marty.lane_of(coalesce(aggregate_id, gen_random_uuid()::text)), topic,
            event_type, aggregate_type, aggregate_id, payload, nullif(headers, '{}'), marty.priority_of(priority), max_delivery_attempts,
            deliver_after, message_key, coalesce(event_id, gen_random_uuid()))
    RETURNING id INTO v_id;
    RETURN v_id;
END
$$;

-- Adds events, one of each array's elements, in their order, all or none; returns their ids in that order. An element means
-- what the argument of marty.enqueue_event_bytes with the name of its array does. Arrays are of one length.
CREATE FUNCTION marty.enqueue_events_bytes(
    topics text[], event_types text[], payloads bytea[], aggregate_ids text[], aggregate_types text[], headers jsonb[],
    priorities text[], max_delivery_attempts integer[], deliver_after timestamptz[], message_keys text[]
) RETURNS SETOF bigint
LANGUAGE plpgsql ROWS 10 AS $$
BEGIN
    -- unnest gives the elements in their order, and nothing above it changes that.
    RETURN QUERY
    INSERT INTO marty.outbox AS o (slot, lane, topic, event_type, aggregate_type, aggregate_id, payload, headers, priority,
                                   max_attempts, deliver_after, message_key)
    SELECT (SELECT s.slot FROM marty.outbox_slot s), marty.lane_of(coalesce(e.aggregate, gen_random_uuid()::text)), e.topic, e.type,
           e.aggregate_type, e.aggregate, e.payload, nullif(e.header, '{}'), marty.priority_of(e.priority), e.attempts, e.after, e.key
      FROM unnest(topics, event_types, payloads, aggregate_ids, aggregate_types, enqueue_events_bytes.headers, priorities,
                  enqueue_events_bytes.max_delivery_attempts, enqueue_events_bytes.deliver_after, message_keys)
           AS e (topic, type, payload, aggregate, aggregate_type, header, priority, attempts, after, key)
     WHERE marty.is_usual_event(e.topic, e.type, e.payload, e.aggregate, e.aggregate_type, e.header, e.priority, e.attempts, e.after, e.key)
        OR marty.check_event(e.topic, e.type, e.payload, e.aggregate, e.aggregate_type, e.header, e.priority, e.attempts, e.after, e.key)
    RETURNING o.id;
END
$$;

-- Adds the events of a JSON array, in its order, to the caller's transaction; returns their ids. Each is an object with the names of
-- marty.enqueue_event's arguments. SQLSTATEs as there; a field of another kind than its argument is MA004, with its place.
CREATE OR REPLACE FUNCTION marty.enqueue_events(events jsonb) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_event jsonb;
    v_place integer := 0;
    v_name  text;
    v_value jsonb;
BEGIN
    IF jsonb_typeof(events) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'events is no JSON array' USING ERRCODE = 'MA004', HINT = 'Give an array of objects.';
    END IF;
    FOR v_event IN SELECT value FROM jsonb_array_elements(events) WITH ORDINALITY ORDER BY ordinality LOOP
        IF jsonb_typeof(v_event) <> 'object' THEN
            RAISE EXCEPTION 'event % of the array is no object', v_place
                USING ERRCODE = 'MA004', HINT = 'Give objects with the names of marty.enqueue_event''s arguments.';
        END IF;
        SELECT key, value INTO v_name, v_value FROM jsonb_each(v_event) AS field
         WHERE CASE
             WHEN key = 'payload' THEN false
             WHEN jsonb_typeof(value) = 'null' THEN key = 'topic' OR key = 'event_type'
             WHEN key IN ('topic', 'event_type', 'aggregate_id', 'aggregate_type', 'priority', 'message_key')
                 THEN jsonb_typeof(value) <> 'string'
             WHEN key = 'headers' THEN jsonb_typeof(value) <> 'object'
             WHEN key = 'max_delivery_attempts' THEN value::text !~ '^[0-9]{1,9}$'
             WHEN key = 'deliver_after' THEN value #>> '{}' !~ '^[0-9]{4,6}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$'
             ELSE true
         END LIMIT 1;
        IF FOUND AND v_name NOT IN ('topic', 'event_type', 'aggregate_id', 'aggregate_type', 'headers', 'priority',
                                    'max_delivery_attempts', 'deliver_after', 'message_key') THEN
            RAISE EXCEPTION 'event % of the array has an unknown field %', v_place, quote_literal(left(v_name, 250))
                USING ERRCODE = 'MA004', HINT = 'Use the names of marty.enqueue_event''s arguments.';
        ELSIF FOUND THEN
            RAISE EXCEPTION 'event % of the array: % cannot be %', v_place, quote_literal(left(v_name, 250)), left(v_value::text, 250)
                USING ERRCODE = 'MA004',
                      HINT = 'Give text, headers as an object of texts, max_delivery_attempts '
                             'as an integer, deliver_after as a time with its offset (2026-01-31T12:00:00Z).';
        END IF;
        v_place := v_place + 1;
    END LOOP;
    RETURN ARRAY(
        SELECT marty.enqueue_events_bytes(a.topic, a.event_type, a.payload, a.aggregate_id, a.aggregate_type, a.headers, a.priority,
                                          a.max_delivery_attempts, a.deliver_after, a.message_key)
          FROM (SELECT array_agg(e.value ->> 'topic' ORDER BY place) AS topic,
                       array_agg(e.value ->> 'event_type' ORDER BY place) AS event_type,
                       array_agg(convert_to((e.value -> 'payload')::text, 'UTF8') ORDER BY place) AS payload,
                       array_agg(e.value ->> 'aggregate_id' ORDER BY place) AS aggregate_id,
                       array_agg(coalesce(e.value ->> 'aggregate_type', '') ORDER BY place) AS aggregate_type,
                       array_agg(coalesce(nullif(e.value -> 'headers', 'null'), '{}') ORDER BY place) AS headers,
                       array_agg(coalesce(e.value ->> 'priority', 'normal') ORDER BY place) AS priority,
                       array_agg((e.value ->> 'max_delivery_attempts')::integer ORDER BY place) AS max_delivery_attempts,
                       array_agg((e.value ->> 'deliver_after')::timestamptz ORDER BY place) AS deliver_after,
                       array_agg(e.value ->> 'message_key' ORDER BY place) AS message_key
                  FROM jsonb_array_elements(events) WITH ORDINALITY AS e (value, place)) AS a);
END
$$;
