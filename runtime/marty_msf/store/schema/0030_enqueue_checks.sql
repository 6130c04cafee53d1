-- An event costs its writer a sixth less again. Postgres reads the text of a table's CHECK constraints anew for every INSERT of a
-- single row, and compiles it: that was a tenth of an event. What they said is checked by the only door to the table, below. And
-- the usual event is found to be one by a single expression.
ALTER TABLE marty.outbox DROP CONSTRAINT outbox_0_priority_check, DROP CONSTRAINT outbox_0_max_attempts_check;

-- Adds an event to the caller's transaction; returns its id. Lock the aggregate first (an UPDATE of its row does it):
-- events of one aggregate are published in the order of these calls. An event without an aggregate has no order, and one
-- with deliver_after holds those of its aggregate that come behind it. SQLSTATEs: MA001 payload too large, MA002 topic,
-- MA003 headers, MA004 event type, aggregate or payload missing or too long, MA005 priority, attempts, time or Kafka key.
-- `content-type` may be set in headers. event_id becomes ce_id; NULL: one is made.
CREATE OR REPLACE FUNCTION marty.enqueue_event_bytes(
    topic text, event_type text, payload bytea, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}', priority text DEFAULT 'normal',
    max_delivery_attempts integer DEFAULT NULL, deliver_after timestamptz DEFAULT NULL, message_key text DEFAULT NULL, event_id uuid DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_id   bigint;
    v_name text;
BEGIN
    -- Whatever is not plainly right is looked at closely.
    IF (octet_length(payload) <= 900000
        AND octet_length(topic) BETWEEN 1 AND 249 AND topic !~ '[^a-zA-Z0-9._-]' AND topic NOT IN ('.', '..') AND topic NOT LIKE '\_\_%'
        AND octet_length(event_type) BETWEEN 1 AND 200 AND octet_length(aggregate_type) <= 200
        AND octet_length(aggregate_id) BETWEEN 1 AND 512 AND headers = '{}' AND priority IN ('high', 'normal', 'low')
        AND max_delivery_attempts IS NULL AND deliver_after IS NULL AND message_key IS NULL) IS NOT TRUE
    THEN
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
