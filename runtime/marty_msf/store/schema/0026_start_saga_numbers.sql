-- As before, but a number that no double holds is refused: workers could not read the context, so the instance was never taken up,
-- shown or cancelled.
CREATE OR REPLACE FUNCTION marty.start_saga(
    resource text, business_key text, context jsonb DEFAULT '{}', traceparent text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    v_revision text;
    v_bytes    bytea;
    v_random   bytea := uuid_send(gen_random_uuid());
    v_id       uuid;
    v_found    uuid;
BEGIN
    SELECT t.revision INTO v_revision FROM marty.saga_type AS t WHERE t.resource = start_saga.resource;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no saga %', quote_nullable(resource)
            USING ERRCODE = 'MA010', HINT = 'Give namespace/name of a Saga whose worker has run on this database.';
    END IF;
    IF business_key IS NULL OR length(business_key) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'business key % is missing or too long', quote_nullable(left(business_key, 600))
            USING ERRCODE = 'MA011', HINT = 'Give 1 to 512 characters that name the business case.';
    END IF;
    IF context IS NULL OR jsonb_typeof(context) <> 'object' THEN
        RAISE EXCEPTION 'the context is no JSON object'
            USING ERRCODE = 'MA012', HINT = 'Give an object, {} for instance.';
    END IF;
    v_bytes := convert_to(context::text, 'UTF8');
    IF octet_length(v_bytes) > 196608 THEN
        RAISE EXCEPTION 'the context has % bytes, 196608 are allowed', octet_length(v_bytes)
            USING ERRCODE = 'MA012', HINT = 'Keep identifiers in it, not data.';
    END IF;
    IF context ? 'context' THEN
        RAISE EXCEPTION 'the name "context" is reserved for the whole context'
            USING ERRCODE = 'MA012', HINT = 'Rename the member.';
    END IF;
    IF jsonb_path_exists(context, 'strict $.**{64} ? (@.type() == "object" || @.type() == "array")') THEN
        RAISE EXCEPTION 'objects and lists of the context are nested over 64 levels deep'
            USING ERRCODE = 'MA012', HINT = 'Keep identifiers in it, not data.';
    END IF;
    IF jsonb_path_exists(context, 'strict $.** ? (@.type() == "number"
        && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))') THEN
        RAISE EXCEPTION 'a number of the context is beyond 1.8e308'
            USING ERRCODE = 'MA012', HINT = 'Give it as text.';
    END IF;
    -- UUID version 7 (RFC 9562): milliseconds, version, random bits; the variant is that of gen_random_uuid.
    v_random := overlay(v_random PLACING substring(
        int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6);
    v_random := set_byte(v_random, 6, (get_byte(v_random, 6) & 15) | 112);
    v_id := encode(v_random, 'hex')::uuid;

    LOOP
        INSERT INTO marty.saga_key AS k (resource, business_key, id) VALUES (resource, business_key, v_id)
        ON CONFLICT ON CONSTRAINT saga_key_pkey DO NOTHING;
        EXIT WHEN FOUND;
        SELECT k.id INTO v_found FROM marty.saga_key AS k
         WHERE k.resource = start_saga.resource AND k.business_key = start_saga.business_key;
        IF FOUND THEN
            RETURN v_found;
        END IF;
        -- The instance that had the key was removed between the two statements: its retention is over.
    END LOOP;
    INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state, counted)
    VALUES (v_id, resource, marty.lane_of(v_id::text), v_revision, business_key, 'Pending', false);
    INSERT INTO marty.saga_input (id, context, traceparent)
    VALUES (v_id, v_bytes, marty.traceparent_of(start_saga.traceparent));
    RETURN v_id;
END
$$;
