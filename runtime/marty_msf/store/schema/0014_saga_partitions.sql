-- The bulk of what sagas leave behind, journals and the contexts they started with, in partitions of a day each (UTC), so
-- that it can be dropped instead of deleted. Ids sort by time, so a range of ids is a range of time, and whoever looks for
-- an id looks into one partition. A partition is called <table>_YYYYMMDD after the day its instances started on; the first
-- one holds everything from before too. What no partition is there for goes to <table>_other, and loses nothing by it.

-- The least id (UUID version 7) that an instance started at this time can have.
CREATE FUNCTION marty.first_id_at(p_time timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT rpad(lpad(to_hex(floor(extract(epoch FROM p_time) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Make the partitions of today and the next three days where they are missing; returns how many were made. To be called
-- every now and then; any number of callers at once, with the rights of who migrated. Waits a second at most for those who
-- read or write the tables, and raises 55P03 when that is too short: then try again later.
CREATE FUNCTION marty.make_saga_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    v_today  date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    v_table  text;
    v_day    date;
    v_name   text;
    v_first  uuid;
    v_behind uuid;
    v_made   integer := 0;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['saga_journal', 'saga_input'] LOOP
        FOR v_ahead IN 0 .. 3 LOOP
            v_day := v_today + v_ahead;
            v_name := v_table || to_char(v_day, '_YYYYMMDD');
            CONTINUE WHEN to_regclass('marty.' || v_name) IS NOT NULL;
            EXECUTE format('LOCK TABLE marty.%I IN ACCESS EXCLUSIVE MODE', v_table || '_other');
            CONTINUE WHEN to_regclass('marty.' || v_name) IS NOT NULL;
            v_first := marty.first_id_at(v_day::timestamp AT TIME ZONE 'UTC');
            v_behind := marty.first_id_at((v_day + 1)::timestamp AT TIME ZONE 'UTC');
            -- Attached, because CREATE TABLE … PARTITION OF would stop all who use the table.
            EXECUTE format('CREATE TABLE marty.%I (LIKE marty.%I INCLUDING ALL)', v_name, v_table);
            EXECUTE format('WITH moved AS (DELETE FROM marty.%I WHERE id >= $1 AND id < $2 RETURNING *)'
                           ' INSERT INTO marty.%I SELECT * FROM moved', v_table || '_other', v_name)
              USING v_first, v_behind;
            EXECUTE format('ALTER TABLE marty.%I ATTACH PARTITION marty.%I FOR VALUES FROM (%L) TO (%L)',
                           v_table, v_name, v_first, v_behind);
            v_made := v_made + 1;
        END LOOP;
    END LOOP;
    RETURN v_made;
END
$$;

-- The tables as they are become today's partitions. That reads them from end to end once, while nobody else uses them.
DO $$
DECLARE
    v_today  date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    v_behind uuid := marty.first_id_at((v_today + 1)::timestamp AT TIME ZONE 'UTC');
    v_table  text;
    v_name   text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['saga_journal', 'saga_input'] LOOP
        v_name := v_table || to_char(v_today, '_YYYYMMDD');
        EXECUTE format('ALTER TABLE marty.%I RENAME TO %I', v_table, v_name);
        EXECUTE format('ALTER INDEX marty.%I RENAME TO %I', v_table || '_pkey', v_name || '_pkey');
        EXECUTE format('CREATE TABLE marty.%I (LIKE marty.%I INCLUDING ALL) PARTITION BY RANGE (id)', v_table, v_name);
        EXECUTE format('CREATE TABLE marty.%I PARTITION OF marty.%I DEFAULT', v_table || '_other', v_table);
        -- Ids that are no UUID of version 7, or of a clock that is ahead by a day.
        EXECUTE format('WITH moved AS (DELETE FROM marty.%I WHERE id >= $1 RETURNING *)'
                       ' INSERT INTO marty.%I SELECT * FROM moved', v_name, v_table || '_other') USING v_behind;
        EXECUTE format('ALTER TABLE marty.%I ATTACH PARTITION marty.%I FOR VALUES FROM (MINVALUE) TO (%L)',
                       v_table, v_name, v_behind);
    END LOOP;
    PERFORM marty.make_saga_partitions();
END
$$;
