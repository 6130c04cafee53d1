-- Adds the events of a JSON array, in its order, to the caller's transaction; returns their ids. Each is an object with the names of
-- marty.enqueue_event's arguments. SQLSTATEs as there; a field of another kind than its argument is MA004, with its place.
CREATE OR REPLACE FUNCTION marty.enqueue_events(events jsonb) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_event jsonb;
    v_ids   bigint[] := '{}';
    v_name  text;
    v_value jsonb;
BEGIN
    IF jsonb_typeof(events) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'events is no JSON array' USING ERRCODE = 'MA004', HINT = 'Give an array of objects.';
    END IF;
    FOR v_event IN SELECT value FROM jsonb_array_elements(events) WITH ORDINALITY ORDER BY ordinality LOOP
        IF jsonb_typeof(v_event) <> 'object' THEN
            RAISE EXCEPTION 'event % of the array is no object', cardinality(v_ids)
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
            RAISE EXCEPTION 'event % of the array has an unknown field %', cardinality(v_ids), quote_literal(left(v_name, 250))
                USING ERRCODE = 'MA004', HINT = 'Use the names of marty.enqueue_event''s arguments.';
        ELSIF FOUND THEN
            RAISE EXCEPTION 'event % of the array: % cannot be %', cardinality(v_ids), quote_literal(left(v_name, 250)), left(v_value::text, 250)
                USING ERRCODE = 'MA004',
                      HINT = 'Give text, headers as an object of texts, max_delivery_attempts '
                             'as an integer, deliver_after as a time with its offset (2026-01-31T12:00:00Z).';
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
