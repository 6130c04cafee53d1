-- What becomes of published events: the slots of the outbox are filled in turn and emptied whole, once everything in them is
-- published, archived where that is asked for, and old enough.

CREATE TABLE marty.outbox_ring (
    slot      smallint    PRIMARY KEY CHECK (slot BETWEEN 0 AND 3),
    opened_at timestamptz,                          -- new events go, or went, there since; NULL: it is empty
    closed_at timestamptz,                          -- and until; NULL: it is empty or the current one
    -- The look into a closed slot before it is emptied, in order of id. Everything that `seen` shows and whose id is not over
    -- `seen_to` is published, and in the archive if there is one.
    seen      pg_snapshot,                          -- from when the look began; NULL: it is yet to begin
    seen_to   bigint      NOT NULL DEFAULT 0,
    seen_all  boolean     NOT NULL DEFAULT false,   -- that is all that `seen` shows
    behind    xid8[],                               -- xmax of the lanes' positions then: they must not have gone back since
    archive   text,                                 -- table of the archive; NULL: none
    CHECK (closed_at IS NULL OR opened_at IS NOT NULL)
);
INSERT INTO marty.outbox_ring (slot, opened_at)
SELECT s, o.since FROM generate_series(0, 3) AS s LEFT JOIN marty.outbox_slot o ON o.slot = s;

-- Make the next slot the current one; false, nothing done, when p_from is not the current one or the next is not empty.
-- Writers do not notice: whoever read the old number still writes to the old slot, which is seen before that is emptied.
CREATE FUNCTION marty.turn_outbox_slot(p_from integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_next smallint := (p_from + 1) % 4;
BEGIN
    PERFORM FROM marty.outbox_ring ORDER BY slot FOR UPDATE;
    UPDATE marty.outbox_slot SET slot = v_next, since = clock_timestamp()
     WHERE slot = p_from AND EXISTS (SELECT FROM marty.outbox_ring AS r WHERE r.slot = v_next AND r.opened_at IS NULL);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE marty.outbox_ring SET closed_at = clock_timestamp() WHERE slot = p_from;
    UPDATE marty.outbox_ring SET opened_at = clock_timestamp() WHERE slot = v_next;
    RETURN true;
END
$$;

-- Of each lane what was read up to its last complete window, at index lane + 1. NULL where that is unknown, or was stored by
-- another cluster, whose transaction ids mean nothing here: everything of such a lane counts as unpublished.
CREATE FUNCTION marty.outbox_read() RETURNS pg_snapshot[]
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(p.prev ORDER BY l.lane)
      FROM generate_series(0, 63) AS l (lane)
      LEFT JOIN marty.outbox_position AS p
             ON p.lane = l.lane AND p.system_identifier = (SELECT system_identifier FROM pg_control_system())
$$;

-- Of the rows of a slot that a snapshot with this xmax and these xids in progress does not show: how many there are,
-- counted up to about 1000, and a lane with an unpublished one among them. Follows the index on xid.
CREATE FUNCTION marty.outbox_slot_rest(p_slot integer, p_xmax xid8, p_late xid8[], p_read pg_snapshot[], OUT events bigint, OUT lane smallint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
    EXECUTE format($sql$
        SELECT count(*), min(f.lane) FILTER (WHERE pg_visible_in_snapshot(f.xid, $3[f.lane + 1]) IS NOT TRUE)
          FROM ((SELECT xid, lane FROM marty.%1$I WHERE xid >= $1 ORDER BY xid LIMIT 1000)
                UNION ALL
                (SELECT xid, lane FROM marty.%1$I WHERE xid = ANY($2) AND xid < $1 ORDER BY xid LIMIT 1000)) AS f
        $sql$, 'outbox_' || p_slot)
       INTO events, lane USING p_xmax, p_late, p_read;
END
$$;

-- Makes marty.<p_archive> unless it is there. SQLSTATE MA020 when something else has the name.
CREATE FUNCTION marty.make_outbox_archive(p_archive text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_missing text;
BEGIN
    IF to_regclass(format('marty.%I', p_archive)) IS NULL THEN
        EXECUTE format($sql$
            CREATE TABLE marty.%I (
                id             bigint      PRIMARY KEY,
                created_at     timestamptz NOT NULL,
                topic          text        NOT NULL,
                event_type     text        NOT NULL,
                aggregate_type text        NOT NULL,
                aggregate_id   text,
                headers        jsonb,
                payload        bytea       NOT NULL,
                event_id       uuid        NOT NULL,
                priority       smallint    NOT NULL,
                archived_at    timestamptz NOT NULL DEFAULT clock_timestamp()
            )
            $sql$, p_archive);
        RETURN;
    END IF;
    SELECT string_agg(w.name, ', ') INTO v_missing
      FROM unnest(ARRAY['id', 'created_at', 'topic', 'event_type', 'aggregate_type', 'aggregate_id', 'headers', 'payload',
                        'event_id', 'priority', 'archived_at']) AS w (name)
     WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                        WHERE a.attrelid = to_regclass(format('marty.%I', p_archive)) AND a.attname = w.name AND NOT a.attisdropped);
    IF v_missing IS NOT NULL THEN
        RAISE EXCEPTION 'marty.% is no archive of the outbox: it has no column %', quote_ident(p_archive), v_missing
            USING ERRCODE = 'MA020', HINT = 'Choose another name, or rename that table.';
    END IF;
END
$$;

-- Look at the next p_events rows of a closed slot, not many more than 16 MiB of payload, and copy them to marty.<p_archive> unless that is NULL. Where it stopped is
-- kept, in the caller's transaction. `state` is
--   More         call again
--   Done         all that there was is published (and archived): it may be emptied
--   Unpublished  nothing done: `lane` has an unpublished event among the rows
--   Open         it is empty or the current one
CREATE FUNCTION marty.look_into_outbox_slot(p_slot integer, p_archive text, p_events integer, OUT state text, OUT lane smallint, OUT archived bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ring   marty.outbox_ring;
    v_read   pg_snapshot[];
    v_low    xid8;
    v_last   bigint;
    v_events bigint;
BEGIN
    archived := 0;
    SELECT * INTO v_ring FROM marty.outbox_ring WHERE slot = p_slot FOR UPDATE;
    IF v_ring.closed_at IS NULL THEN
        state := 'Open';
        RETURN;
    END IF;
    IF p_archive IS NOT NULL THEN
        PERFORM marty.make_outbox_archive(p_archive);
    END IF;
    v_read := marty.outbox_read();
    IF v_ring.seen IS NULL OR v_ring.archive IS DISTINCT FROM p_archive THEN
        -- Statements that follow see what this snapshot shows, and more.
        UPDATE marty.outbox_ring
           SET seen = pg_current_snapshot(), seen_to = 0, seen_all = false, archive = p_archive,
               behind = (SELECT array_agg(pg_snapshot_xmax(r.prev) ORDER BY r.n) FROM unnest(v_read) WITH ORDINALITY AS r (prev, n))
         WHERE slot = p_slot
        RETURNING * INTO v_ring;
        IF p_archive IS NULL AND NOT EXISTS (SELECT FROM unnest(v_read) AS r (prev) WHERE r.prev IS NULL) THEN
            -- Mostly all lanes are far behind all of it, and then the index says so at once.
            SELECT min(pg_snapshot_xmax(r)) INTO v_low FROM unnest(v_read) AS r;
            SELECT f.events, f.lane INTO v_events, lane
              FROM marty.outbox_slot_rest(p_slot, v_low, ARRAY(SELECT pg_snapshot_xip(r) FROM unnest(v_read) AS r), v_read) AS f;
            IF lane IS NOT NULL THEN
                state := 'Unpublished';
                UPDATE marty.outbox_ring SET seen = NULL WHERE slot = p_slot;
                RETURN;
            END IF;
            IF v_events < 1000 THEN
                v_ring.seen_all := true;
                UPDATE marty.outbox_ring SET seen_all = true WHERE slot = p_slot;
            END IF;
        END IF;
    END IF;
    IF v_ring.seen_all THEN
        state := 'Done';
        RETURN;
    END IF;
    EXECUTE format($sql$
        SELECT max(f.id), min(f.lane) FILTER (WHERE pg_visible_in_snapshot(f.xid, $3[f.lane + 1]) IS NOT TRUE)
          FROM (SELECT id, xid, lane, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before
                  FROM (SELECT id, xid, lane, payload FROM marty.%I WHERE id > $1 ORDER BY id LIMIT $2) AS n) AS f
         WHERE f.bytes_before < 16777216
        $sql$, 'outbox_' || p_slot)
       INTO v_last, lane USING v_ring.seen_to, p_events, v_read;
    IF lane IS NOT NULL THEN
        state := 'Unpublished';
        RETURN;
    END IF;
    IF v_last IS NOT NULL AND p_archive IS NOT NULL THEN
        EXECUTE format($sql$
            INSERT INTO marty.%I (id, created_at, topic, event_type, aggregate_type, aggregate_id, headers, payload, event_id, priority,
                                  archived_at)
            SELECT id, created_at, topic, event_type, aggregate_type, aggregate_id, headers, payload, event_id, priority, clock_timestamp()
              FROM marty.%I WHERE id > $1 AND id <= $2
            ON CONFLICT DO NOTHING
            $sql$, p_archive, 'outbox_' || p_slot) USING v_ring.seen_to, v_last;
        GET DIAGNOSTICS archived = ROW_COUNT;
    END IF;
    UPDATE marty.outbox_ring SET seen_to = coalesce(v_last, seen_to), seen_all = v_last IS NULL WHERE slot = p_slot;
    state := CASE WHEN v_last IS NULL THEN 'Done' ELSE 'More' END;
END
$$;

-- Empty a slot that was looked through. Only its own table is locked, and only then it is checked: what others have written by
-- then is seen, what they want to write waits, for as long as an index look-up and a TRUNCATE take. Raises 55P03, nothing
-- done, when the lock is not free within 50 ms: so long at most others wait behind it. `state` is
--   Emptied
--   Unpublished  nothing done: `lane` has an unpublished event there
--   Again        nothing done: it must be looked through (again)
-- What came after the look is archived here: a few events of writers that read the slot's number long ago.
CREATE FUNCTION marty.empty_outbox_slot(p_slot integer, p_archive text, OUT state text, OUT lane smallint, OUT archived bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_ring   marty.outbox_ring;
    v_read   pg_snapshot[];
    v_events bigint;
BEGIN
    archived := 0;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a slot is emptied in READ COMMITTED only: an older snapshot does not show what others wrote';
    END IF;
    SELECT * INTO v_ring FROM marty.outbox_ring WHERE slot = p_slot FOR UPDATE;
    IF v_ring.closed_at IS NULL OR NOT v_ring.seen_all OR v_ring.archive IS DISTINCT FROM p_archive THEN
        state := 'Again';
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE ONLY marty.%I IN ACCESS EXCLUSIVE MODE', 'outbox_' || p_slot);
    v_read := marty.outbox_read();
    IF EXISTS (SELECT FROM unnest(v_read, v_ring.behind) AS r (prev, xmax)
                WHERE r.xmax IS NOT NULL AND (r.prev IS NULL OR pg_snapshot_xmax(r.prev) < r.xmax)) THEN
        UPDATE marty.outbox_ring SET seen = NULL, seen_all = false WHERE slot = p_slot;
        state := 'Again';
        RETURN;
    END IF;
    SELECT f.events, f.lane INTO v_events, lane
      FROM marty.outbox_slot_rest(p_slot, pg_snapshot_xmax(v_ring.seen), ARRAY(SELECT pg_snapshot_xip(v_ring.seen)), v_read) AS f;
    IF lane IS NOT NULL THEN
        state := 'Unpublished';
        RETURN;
    END IF;
    IF v_events >= 1000 THEN
        UPDATE marty.outbox_ring SET seen = NULL, seen_all = false WHERE slot = p_slot;
        state := 'Again';
        RETURN;
    END IF;
    IF v_events > 0 AND p_archive IS NOT NULL THEN
        EXECUTE format($sql$
            INSERT INTO marty.%I (id, created_at, topic, event_type, aggregate_type, aggregate_id, headers, payload, event_id, priority,
                                  archived_at)
            SELECT id, created_at, topic, event_type, aggregate_type, aggregate_id, headers, payload, event_id, priority, clock_timestamp()
              FROM marty.%I WHERE xid >= $1 OR xid = ANY($2)
            ON CONFLICT DO NOTHING
            $sql$, p_archive, 'outbox_' || p_slot) USING pg_snapshot_xmax(v_ring.seen), ARRAY(SELECT pg_snapshot_xip(v_ring.seen));
        GET DIAGNOSTICS archived = ROW_COUNT;
    END IF;
    EXECUTE format('TRUNCATE TABLE ONLY marty.%I', 'outbox_' || p_slot);
    UPDATE marty.outbox_ring
       SET opened_at = NULL, closed_at = NULL, seen = NULL, seen_to = 0, seen_all = false, behind = NULL, archive = NULL
     WHERE slot = p_slot;
    -- The lock is kept until the commit is done, and that shall not be when a standby says so.
    PERFORM set_config('synchronous_commit', 'local', true);
    state := 'Emptied';
END
$$;

-- They act with the rights of who migrated, so they are for the workers' user only.
REVOKE EXECUTE ON FUNCTION marty.turn_outbox_slot(integer), marty.make_outbox_archive(text),
    marty.look_into_outbox_slot(integer, text, integer), marty.empty_outbox_slot(integer, text) FROM PUBLIC;
