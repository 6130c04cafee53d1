-- Whose rows a partition has to keep is found once and then looked up by id: a join might read the partition from end to
-- end, while it is locked.

-- The instances that are still there and have rows in a partition of marty.saga_journal or marty.saga_input, p_most at most.
CREATE FUNCTION marty.saga_partition_kept(p_partition regclass, p_most integer) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    v_first uuid;
    v_last  uuid;
    v_kept  uuid[];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = p_partition
                      AND inhparent IN ('marty.saga_journal'::regclass, 'marty.saga_input'::regclass)) THEN
        RAISE EXCEPTION '% is no partition of marty.saga_journal or marty.saga_input', p_partition;
    END IF;
    EXECUTE format('SELECT id FROM %s ORDER BY id LIMIT 1', p_partition) INTO v_first;
    EXECUTE format('SELECT id FROM %s ORDER BY id DESC LIMIT 1', p_partition) INTO v_last;
    -- The subquery cannot become a join, so the partition is only probed for instances that are there.
    EXECUTE format($sql$
        SELECT array_agg(f.id) FROM (
            SELECT i.id FROM marty.saga_instance AS i
             WHERE i.id BETWEEN $1 AND $2 AND (SELECT true FROM %s AS p WHERE p.id = i.id LIMIT 1)
             ORDER BY i.id LIMIT $3) AS f
        $sql$, p_partition)
       INTO v_kept USING v_first, v_last, p_most;
    RETURN coalesce(v_kept, '{}');
END
$$;

CREATE OR REPLACE FUNCTION marty.saga_partition_use(p_partition regclass, p_most integer, OUT instances integer, OUT bytes bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_kept    uuid[] := marty.saga_partition_kept(p_partition, p_most);
    v_parent  regclass := (SELECT inhparent FROM pg_inherits WHERE inhrelid = p_partition);
    v_payload text := CASE v_parent WHEN 'marty.saga_journal'::regclass THEN 'entry' ELSE 'context' END;
BEGIN
    instances := cardinality(v_kept);
    EXECUTE format('SELECT coalesce(sum(pg_column_size(%I) + 64), 0) FROM %s WHERE id = ANY($1)', v_payload, p_partition)
       INTO bytes USING v_kept;
END
$$;

-- As before.
CREATE OR REPLACE FUNCTION marty.rotate_saga_partition(p_partition regclass, p_most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_kept uuid[] := marty.saga_partition_kept(p_partition, 0);     -- refuses what is no partition of ours
BEGIN
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', p_partition);
    v_kept := marty.saga_partition_kept(p_partition, p_most + 1);
    IF cardinality(v_kept) > p_most THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TEMP TABLE marty_kept ON COMMIT DROP AS SELECT * FROM %s WHERE id = ANY($1)', p_partition)
      USING v_kept;
    EXECUTE format('TRUNCATE TABLE ONLY %s', p_partition);
    EXECUTE format('INSERT INTO %s SELECT * FROM pg_temp.marty_kept', p_partition);
    RETURN true;
END
$$;
