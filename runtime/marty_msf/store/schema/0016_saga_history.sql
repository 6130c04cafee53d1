-- What becomes of ended instances: their narrow rows are deleted in small batches when their saga's retention is over, the
-- bulk goes with its partition once nothing of it is needed any more.

-- How long ended instances are kept, by saga; written by each worker that takes up its configuration. A saga that is not
-- here keeps its history.
CREATE TABLE marty.saga_retention (
    resource        text COLLATE "C" PRIMARY KEY,   -- 'namespace/name' of the Saga
    completed_hours integer     NOT NULL CHECK (completed_hours > 0),
    registered_at   timestamptz NOT NULL DEFAULT now()
);

-- How many instances that are still there have rows in a partition of marty.saga_journal or marty.saga_input, counted up to
-- p_most, and how many bytes the rows of these take. The joins follow indexes: a partition may have any size.
CREATE FUNCTION marty.saga_partition_use(p_partition regclass, p_most integer, OUT instances integer, OUT bytes bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_parent  regclass := (SELECT inhparent FROM pg_inherits WHERE inhrelid = p_partition);
    v_payload text := CASE v_parent WHEN 'marty.saga_journal'::regclass THEN 'entry'
                                    WHEN 'marty.saga_input'::regclass THEN 'context' END;
BEGIN
    IF v_payload IS NULL THEN
        RAISE EXCEPTION '% is no partition of marty.saga_journal or marty.saga_input', p_partition;
    END IF;
    EXECUTE format($sql$
        WITH ends AS MATERIALIZED (
            SELECT (SELECT id FROM %1$s ORDER BY id LIMIT 1) AS first, (SELECT id FROM %1$s ORDER BY id DESC LIMIT 1) AS last
        ), kept AS MATERIALIZED (
            SELECT i.id FROM ends JOIN marty.saga_instance AS i ON i.id BETWEEN ends.first AND ends.last
             WHERE EXISTS (SELECT FROM %1$s AS p WHERE p.id = i.id)
             LIMIT $1
        )
        SELECT (SELECT count(*) FROM kept),
               (SELECT coalesce(sum(pg_column_size(p.%2$I) + 64), 0) FROM kept JOIN %1$s AS p ON p.id = kept.id)
        $sql$, p_partition, v_payload)
       INTO instances, bytes USING p_most;
END
$$;

-- Empty a partition but for the rows of instances that are still there; false, nothing done, when these are more than
-- p_most. With the rights of who migrated. Only this partition is locked, and before its rows are looked at: what others
-- wrote by then is seen, what they want to write waits. Raises 55P03, nothing done, when the lock is not free within 50 ms.
CREATE FUNCTION marty.rotate_saga_partition(p_partition regclass, p_most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM marty.saga_partition_use(p_partition, 0);   -- refuses what is no partition of ours
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', p_partition);
    IF (marty.saga_partition_use(p_partition, p_most + 1)).instances > p_most THEN
        RETURN false;
    END IF;
    EXECUTE format($sql$
        CREATE TEMP TABLE marty_kept ON COMMIT DROP AS
        WITH ends AS MATERIALIZED (
            SELECT (SELECT id FROM %1$s ORDER BY id LIMIT 1) AS first, (SELECT id FROM %1$s ORDER BY id DESC LIMIT 1) AS last
        )
        SELECT p.* FROM ends JOIN marty.saga_instance AS i ON i.id BETWEEN ends.first AND ends.last JOIN %1$s AS p ON p.id = i.id
        $sql$, p_partition);
    EXECUTE format('TRUNCATE TABLE ONLY %s', p_partition);
    EXECUTE format('INSERT INTO %s SELECT * FROM pg_temp.marty_kept', p_partition);
    RETURN true;
END
$$;

-- Drop a partition whose time is over and that no instance needs; false, nothing done, when that is not so. With the rights
-- of who migrated. Raises 55P03, nothing done, when a lock is not free within 50 ms: so long at most others wait for it.
CREATE FUNCTION marty.drop_saga_partition(p_partition regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    v_parent regclass;
    v_behind uuid;
BEGIN
    SELECT h.inhparent, substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$TO \('([-0-9a-f]{36})'\)$re$)::uuid
      INTO v_parent, v_behind
      FROM pg_inherits AS h JOIN pg_class AS c ON c.oid = h.inhrelid WHERE c.oid = p_partition;
    -- An hour for clocks that differ.
    IF v_behind IS NULL OR v_behind > marty.first_id_at(clock_timestamp() - interval '1 hour')
       OR (marty.saga_partition_use(p_partition, 1)).instances > 0 THEN
        RETURN false;
    END IF;
    -- In the order in which DROP takes them.
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', v_parent);
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', p_partition);
    IF (marty.saga_partition_use(p_partition, 1)).instances > 0 THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %s', p_partition);
    RETURN true;
END
$$;

-- As before, but for business keys that become free meanwhile. The instance is there, as Pending, if and only if the caller's
-- transaction commits; the owner of its lane takes it up within a tenth of a second. Returns its id, or that of the instance
-- that has the business key already, whatever its context: the same call may be made again. Waits for a transaction that is
-- starting one with this key.
-- SQLSTATEs: MA010 no such saga, MA011 business key, MA012 context.
CREATE OR REPLACE FUNCTION marty.start_saga(resource text, business_key text, context jsonb DEFAULT '{}') RETURNS uuid
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
    INSERT INTO marty.saga_input (id, context) VALUES (v_id, v_bytes);
    RETURN v_id;
END
$$;
