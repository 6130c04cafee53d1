-- An outbox table that was there before Marty: what is inserted there is enqueued in the same transaction, by a trigger that is
-- made from the columns that an OutboxRelay names. So order, windows, retries and priorities hold as for every other event.

DROP FUNCTION marty.enqueue_event_bytes(text, text, bytea, text, text, jsonb, text, integer, timestamptz, text);

-- Adds an event to the caller's transaction; returns its id. Lock the aggregate first (an UPDATE of its row does it):
-- events of one aggregate are published in the order of these calls. An event without an aggregate has no order, and one
-- with deliver_after holds those of its aggregate that come behind it. SQLSTATEs: MA001 payload too large, MA002 topic,
-- MA003 headers, MA004 event type, aggregate or payload missing or too long, MA005 priority, attempts or Kafka key.
-- `content-type` may be set in headers. event_id becomes ce_id; NULL: one is made.
CREATE FUNCTION marty.enqueue_event_bytes(
    topic text, event_type text, payload bytea, aggregate_id text,
    aggregate_type text DEFAULT '', headers jsonb DEFAULT '{}', priority text DEFAULT 'normal',
    max_delivery_attempts integer DEFAULT NULL, deliver_after timestamptz DEFAULT NULL, message_key text DEFAULT NULL, event_id uuid DEFAULT NULL
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
                              max_attempts, deliver_after, message_key, event_id)
    SELECT s.slot, marty.lane_of(coalesce(aggregate_id, gen_random_uuid()::text)), topic, event_type, aggregate_type,
           aggregate_id, payload, headers, marty.priority_of(priority), max_delivery_attempts, deliver_after, message_key,
           coalesce(event_id, gen_random_uuid())
      FROM marty.outbox_slot s
    RETURNING id INTO v_id;
    RETURN v_id;
END
$$;

-- The mapping that is installed; no row: none.
CREATE TABLE marty.outbox_source (
    singleton boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    source    jsonb       NOT NULL,     -- spec.source
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What the trigger passes on for a column of its table: the value of NEW in the type that marty.enqueue_event_bytes takes.
-- 'NULL' when no column is named.
CREATE FUNCTION marty.outbox_source_value(p_table oid, p_column text, p_type text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_base oid;
BEGIN
    IF p_column IS NULL THEN
        RETURN 'NULL';
    END IF;
    SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END INTO v_base
      FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE a.attrelid = p_table AND a.attname = p_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column % of % does not exist', quote_literal(p_column), p_table::regclass USING ERRCODE = '42703';
    END IF;
    IF p_type = 'bytea' AND v_base <> 'bytea'::regtype THEN
        RETURN format('convert_to(NEW.%I::text, ''UTF8'')', p_column);
    END IF;
    RETURN format('NEW.%I::%s', p_column, p_type);
END
$$;

-- Take the triggers of all tables but p_keep away. Where that is not allowed, or the table is in use, the trigger does nothing
-- from now on; the names of these tables are returned, and the next call tries again.
CREATE FUNCTION marty.unmap_outbox_tables(p_keep oid) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_function record;
    v_trigger  record;
    v_names    text[];
    v_left     text[] := '{}';
BEGIN
    FOR v_function IN
        SELECT p.oid, p.proname FROM pg_proc AS p
         WHERE p.pronamespace = 'marty'::regnamespace AND p.proname ~ '^outbox_source_[0-9]+$'
           AND p.proname <> 'outbox_source_' || p_keep
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION marty.%I() RETURNS trigger LANGUAGE plpgsql AS %L',
                       v_function.proname, 'BEGIN RETURN NULL; END');
        v_names := '{}';
        BEGIN
            FOR v_trigger IN SELECT tgname, tgrelid FROM pg_trigger WHERE tgfoid = v_function.oid AND tgparentid = 0 LOOP
                v_names := v_names || v_trigger.tgrelid::regclass::text;
                EXECUTE format('DROP TRIGGER %I ON %s', v_trigger.tgname, v_trigger.tgrelid::regclass);
            END LOOP;
            EXECUTE format('DROP FUNCTION marty.%I()', v_function.proname);
        EXCEPTION WHEN insufficient_privilege OR lock_not_available OR dependent_objects_still_exist THEN
            v_left := v_left || v_names;
        END;
    END LOOP;
    RETURN v_left;
END
$$;

-- Install, change or (p_source is NULL) take away the mapping; p_source is spec.source. With p_replace false only what is the
-- same is mended, so that workers of a former specification, which go on for a while, do not bring theirs back. Nothing of
-- p_source is executed: names are looked up in the catalogue and quoted. Waits half a second at most for those who write to
-- the table, and then raises 55P03, nothing done. Returns tables whose trigger could not be removed, see unmap_outbox_tables.
CREATE FUNCTION marty.map_outbox_table(p_source jsonb, p_replace boolean) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    v_columns jsonb := p_source -> 'columns';
    v_table   oid;
    v_name    text;
    v_body    text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('marty.outbox_source', 0));
    IF NOT p_replace AND (SELECT source FROM marty.outbox_source) IS DISTINCT FROM p_source THEN
        RETURN '{}';
    END IF;
    DELETE FROM marty.outbox_source WHERE source IS DISTINCT FROM p_source;
    IF p_source IS NULL THEN
        RETURN marty.unmap_outbox_tables(0);
    END IF;
    SELECT c.oid INTO v_table
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = split_part(p_source ->> 'table', '.', 1) AND c.relname = split_part(p_source ->> 'table', '.', 2)
       AND c.relkind IN ('r', 'p');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % does not exist', quote_nullable(p_source ->> 'table') USING ERRCODE = '42P01';
    END IF;
    v_name := 'outbox_source_' || v_table;
    v_body := format($body$
BEGIN
    PERFORM marty.enqueue_event_bytes(
        topic => %s,
        event_type => %s,
        payload => %s,
        aggregate_id => %s,
        aggregate_type => coalesce(%s, ''),
        headers => coalesce(%s, '{}'::jsonb),
        priority => coalesce(%s, 'normal'),
        max_delivery_attempts => %s,
        deliver_after => %s,
        message_key => %s,
        event_id => %s);
    RETURN NULL;
END
$body$,
        CASE WHEN p_source ->> 'topic' IS NULL THEN marty.outbox_source_value(v_table, v_columns ->> 'topic', 'text')
             ELSE quote_literal(p_source ->> 'topic') END,
        marty.outbox_source_value(v_table, v_columns ->> 'eventType', 'text'),
        marty.outbox_source_value(v_table, v_columns ->> 'payload', 'bytea'),
        marty.outbox_source_value(v_table, v_columns ->> 'aggregateId', 'text'),
        marty.outbox_source_value(v_table, v_columns ->> 'aggregateType', 'text'),
        marty.outbox_source_value(v_table, v_columns ->> 'headers', 'jsonb'),
        marty.outbox_source_value(v_table, v_columns ->> 'priority', 'text'),
        marty.outbox_source_value(v_table, v_columns ->> 'maxDeliveryAttempts', 'integer'),
        marty.outbox_source_value(v_table, v_columns ->> 'deliverAfter', 'timestamptz'),
        marty.outbox_source_value(v_table, v_columns ->> 'messageKey', 'text'),
        marty.outbox_source_value(v_table, v_columns ->> 'eventId', 'uuid'));
    IF NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = 'marty'::regnamespace AND proname = v_name AND prosrc = v_body) THEN
        -- With the rights of who migrated: who inserts into the table needs none in the schema marty.
        EXECUTE format('CREATE OR REPLACE FUNCTION marty.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                       'SET search_path = pg_catalog, pg_temp AS %L', v_name, v_body);
        EXECUTE format('REVOKE EXECUTE ON FUNCTION marty.%I() FROM PUBLIC', v_name);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = v_table AND tgname = 'marty_outbox'
                      AND tgfoid = to_regproc('marty.' || v_name)) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER marty_outbox AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION marty.%I()',
                       v_table::regclass, v_name);
    END IF;
    INSERT INTO marty.outbox_source (source) VALUES (p_source) ON CONFLICT (singleton) DO NOTHING;
    RETURN marty.unmap_outbox_tables(v_table);
END
$$;

-- It acts with the rights of who migrated, so it is for the workers' user only.
REVOKE EXECUTE ON FUNCTION marty.unmap_outbox_tables(oid), marty.map_outbox_table(jsonb, boolean) FROM PUBLIC;
