-- The days of one table are made by a transaction of their own: whoever makes them holds nothing of the other table, so that it
-- never waits for somebody who waits for it.

-- As marty.make_saga_partitions() for one of its tables: 'saga_journal' or 'saga_input'. Those who use the table wait for it for a
-- fifth of a second at most, and a little for its work.
CREATE FUNCTION marty.make_saga_partitions(p_table text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    v_today  date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    v_day    date;
    v_name   text;
    v_first  uuid;
    v_behind uuid;
    v_made   integer := 0;
BEGIN
    IF p_table NOT IN ('saga_journal', 'saga_input') THEN
        RAISE EXCEPTION 'marty.% has no partitions of days', p_table USING ERRCODE = '22023';
    END IF;
    FOR v_ahead IN 0 .. 3 LOOP
        v_day := v_today + v_ahead;
        v_name := p_table || to_char(v_day, '_YYYYMMDD');
        CONTINUE WHEN to_regclass('marty.' || v_name) IS NOT NULL;
        EXECUTE format('LOCK TABLE marty.%I IN ACCESS EXCLUSIVE MODE', p_table || '_other');
        CONTINUE WHEN to_regclass('marty.' || v_name) IS NOT NULL;
        v_first := marty.first_id_at(v_day::timestamp AT TIME ZONE 'UTC');
        v_behind := marty.first_id_at((v_day + 1)::timestamp AT TIME ZONE 'UTC');
        -- Attached, because CREATE TABLE … PARTITION OF would stop all who use the table.
        EXECUTE format('CREATE TABLE marty.%I (LIKE marty.%I INCLUDING ALL)', v_name, p_table);
        EXECUTE format('WITH moved AS (DELETE FROM marty.%I WHERE id >= $1 AND id < $2 RETURNING *)'
                       ' INSERT INTO marty.%I SELECT * FROM moved', p_table || '_other', v_name)
          USING v_first, v_behind;
        EXECUTE format('ALTER TABLE marty.%I ATTACH PARTITION marty.%I FOR VALUES FROM (%L) TO (%L)',
                       p_table, v_name, v_first, v_behind);
        v_made := v_made + 1;
    END LOOP;
    RETURN v_made;
END
$$;

-- Both in the caller's transaction, for programs from before: who waits for the other table gives up before Postgres looks for a
-- deadlock (deadlock_timeout, 1 s by default) and ends whom it likes.
CREATE OR REPLACE FUNCTION marty.make_saga_partitions() RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT marty.make_saga_partitions('saga_journal') + marty.make_saga_partitions('saga_input')
$$;
