-- Semantic locks of sagas: who holds a key, and who waits for it in which order.

-- One row for each key that an instance asked for. All rows of an instance have one ticket, drawn when it asked. It holds
-- its lock once its rows are the first ones of all its keys; then `granted` is set in all of them at once. Whoever waits
-- for one key keeps its place at the others, and the lowest ticket can always go ahead: so there is no deadlock, and who
-- asked first is served first.
-- A row counts while its instance is live or parked: the commit that ends an instance frees its keys, whatever becomes
-- of the process that wrote it.
CREATE TABLE marty.saga_lock (
    scope         text COLLATE "C" NOT NULL,    -- namespace: its sagas share their keys
    key           text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 512),
    ticket        bigint      NOT NULL,
    instance      uuid        NOT NULL,
    resource      text COLLATE "C" NOT NULL,
    lane          smallint    NOT NULL CHECK (lane BETWEEN 0 AND 63),
    lease_seconds integer     NOT NULL,
    asked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    granted       bigint,                       -- rises from one grant to the next, also in the order of commits
    held_at       timestamptz,
    suspected_at  timestamptz,                  -- somebody saw that nobody works on it
    PRIMARY KEY (scope, key, ticket),
    CONSTRAINT held_since_it_was_granted CHECK ((granted IS NULL) = (held_at IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX saga_lock_instance ON marty.saga_lock (instance);
-- What owners look for, several times a second, while something of theirs waits.
CREATE INDEX saga_lock_granted ON marty.saga_lock (resource, granted);
CREATE INDEX saga_lock_waiting ON marty.saga_lock (resource) WHERE granted IS NULL;

-- Tickets and grants.
CREATE SEQUENCE marty.saga_lock_order;

-- Everything below that changes rows does so under this lock, so that the order of tickets is the order of commits. It
-- waits for nothing meanwhile: leases are locked before, or skipped.
CREATE FUNCTION marty.lock_saga_locks(p_scope text) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('marty.saga_lock:' || p_scope, 0))
$$;

-- Removes the first rows of these keys that do not count any more, then grants to all who are the first now.
-- A live holder whose lane had no owner for its whole lease loses the lock when somebody waits behind it. It is suspected
-- first: after an outage of the database, or when a saga goes on after a pause, its owners get 10 seconds to come back.
-- Taking it raises the epoch of its lane, so that a former owner that was only slow finds its next write refused.
CREATE FUNCTION marty.settle_saga_locks(p_scope text, p_keys text[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_keys text[] := ARRAY(SELECT DISTINCT key FROM unnest(p_keys) AS k (key));
    v_more text[];
BEGIN
    PERFORM marty.lock_saga_locks(p_scope);
    LOOP
        WITH front AS MATERIALIZED (
            SELECT f.*, i.state
              FROM unnest(v_keys) AS k (key)
             CROSS JOIN LATERAL (SELECT q.key, q.ticket, q.instance, q.resource, q.lane, q.lease_seconds, q.granted, q.suspected_at
                                   FROM marty.saga_lock AS q WHERE q.scope = p_scope AND q.key = k.key
                                  ORDER BY q.ticket LIMIT 1) AS f
              LEFT JOIN marty.saga_instance AS i ON i.id = f.instance
        ), abandoned AS MATERIALIZED (
            SELECT f.instance, f.suspected_at, l.scope, l.lane, l.expires_at
              FROM front AS f JOIN marty.lease AS l ON l.scope = 'saga:' || f.resource AND l.lane = f.lane
             WHERE f.state IN ('Waiting', 'Running', 'Compensating')
               AND l.expires_at < clock_timestamp() - make_interval(secs => f.lease_seconds)
               AND EXISTS (SELECT FROM marty.saga_lock AS b WHERE b.scope = p_scope AND b.key = f.key AND b.ticket > f.ticket)
        ), suspected AS (
            UPDATE marty.saga_lock AS q SET suspected_at = clock_timestamp()
              FROM abandoned AS a
             WHERE q.instance = a.instance AND (q.suspected_at IS NULL OR q.suspected_at < a.expires_at)
        ), fenced AS (
            UPDATE marty.lease AS l SET holder = NULL, epoch = l.epoch + 1
              FROM (SELECT s.scope, s.lane FROM marty.lease AS s
                     WHERE EXISTS (SELECT FROM abandoned AS a
                                    WHERE a.scope = s.scope AND a.lane = s.lane AND a.expires_at = s.expires_at
                                      AND a.suspected_at > a.expires_at
                                      AND a.suspected_at < clock_timestamp() - interval '10 seconds')
                       FOR UPDATE OF s SKIP LOCKED) AS s
             WHERE l.scope = s.scope AND l.lane = s.lane
            RETURNING l.scope, l.lane
        ), gone AS (
            DELETE FROM marty.saga_lock AS q
             WHERE q.instance IN (
                 SELECT f.instance FROM front AS f
                  WHERE f.state IS NULL OR f.state IN ('Completed', 'Compensated', 'Failed', 'Cancelled')
                     OR (f.granted IS NULL AND f.state <> 'Waiting')
                 UNION ALL
                 SELECT a.instance FROM abandoned AS a JOIN fenced AS n ON n.scope = a.scope AND n.lane = a.lane
                  WHERE a.suspected_at > a.expires_at AND a.suspected_at < clock_timestamp() - interval '10 seconds')
            RETURNING q.key
        )
        SELECT array_agg(DISTINCT key) INTO v_more FROM gone;
        EXIT WHEN v_more IS NULL;
        v_keys := ARRAY(SELECT key FROM unnest(v_keys) AS k (key) UNION SELECT key FROM unnest(v_more) AS m (key));
    END LOOP;

    UPDATE marty.saga_lock AS q SET granted = nextval('marty.saga_lock_order'), held_at = clock_timestamp()
     WHERE q.instance IN (
         SELECT f.instance
           FROM unnest(v_keys) AS k (key)
          CROSS JOIN LATERAL (SELECT o.instance, o.granted FROM marty.saga_lock AS o
                               WHERE o.scope = p_scope AND o.key = k.key ORDER BY o.ticket LIMIT 1) AS f
          WHERE f.granted IS NULL
            AND NOT EXISTS (SELECT FROM marty.saga_lock AS o JOIN marty.saga_lock AS b
                                ON b.scope = o.scope AND b.key = o.key AND b.ticket < o.ticket
                             WHERE o.instance = f.instance));
END
$$;

-- One turn of the owner of some lanes, in one transaction: `p_freed` give up what they hold or wait for, then the asked
-- queue for their keys (a row for each key, in the order of asking), then it is seen who holds what. Answers, for lanes that are still the
-- caller's: 'freed'; and for each asked instance 'held', 'waits', or 'refused' with the instance that is before it. Asking
-- again changes nothing, unless the keys changed: then the instance queues anew.
CREATE FUNCTION marty.turn_saga_locks(
    p_resource text, p_holder text, p_epochs bigint[], p_freed uuid[], p_freed_lanes integer[],
    p_instances uuid[], p_lanes integer[], p_keys text[], p_lease_seconds integer[], p_rejects boolean[])
RETURNS TABLE (instance uuid, outcome text, before uuid)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_scope   text := split_part(p_resource, '/', 1);
    v_ours    bigint;       -- bit n: lane n is the caller's
    v_keys    text[];
    v_more    text[];
    v_refused uuid[];
    v_before  uuid[];
BEGIN
    SELECT coalesce(bit_or(1::bigint << h.lane), 0) INTO v_ours
      FROM (SELECT l.lane FROM marty.lease AS l
             WHERE l.scope = 'saga:' || p_resource AND l.holder = p_holder AND l.epoch = p_epochs[l.lane + 1]
             ORDER BY l.lane FOR SHARE OF l) AS h;
    PERFORM marty.lock_saga_locks(v_scope);

    WITH freed AS (
        DELETE FROM marty.saga_lock AS q USING unnest(p_freed, p_freed_lanes) AS f (id, lane)
         WHERE q.instance = f.id AND (v_ours >> f.lane) & 1 = 1
        RETURNING q.key
    )
    SELECT array_agg(DISTINCT key) INTO v_keys FROM freed;

    WITH asked AS (
        SELECT a.id, array_agg(a.key COLLATE "C" ORDER BY a.key COLLATE "C") AS keys
          FROM unnest(p_instances, p_lanes, p_keys) AS a (id, lane, key)
         WHERE (v_ours >> a.lane) & 1 = 1 GROUP BY a.id
    ), changed AS (
        DELETE FROM marty.saga_lock AS q USING asked AS a
         WHERE q.instance = a.id
           AND a.keys <> ARRAY(SELECT o.key FROM marty.saga_lock AS o WHERE o.instance = a.id ORDER BY o.key)
        RETURNING q.key
    )
    SELECT array_agg(DISTINCT key) INTO v_more FROM changed;

    INSERT INTO marty.saga_lock (scope, key, ticket, instance, resource, lane, lease_seconds)
    SELECT v_scope, k.key, t.ticket, t.id, p_resource, t.lane, t.lease_seconds
      FROM (SELECT n.*, nextval('marty.saga_lock_order') AS ticket
              FROM (SELECT a.id, a.lane, a.lease_seconds, array_agg(a.key) AS keys
                      FROM unnest(p_instances, p_lanes, p_keys, p_lease_seconds) WITH ORDINALITY AS a (id, lane, key, lease_seconds, place)
                     WHERE (v_ours >> a.lane) & 1 = 1
                       AND NOT EXISTS (SELECT FROM marty.saga_lock AS o WHERE o.instance = a.id)
                     GROUP BY a.id, a.lane, a.lease_seconds ORDER BY min(a.place)) AS n) AS t
     CROSS JOIN LATERAL unnest(t.keys) AS k (key);

    PERFORM marty.settle_saga_locks(v_scope, v_keys || v_more || p_keys);

    WITH refused AS MATERIALIZED (
        SELECT DISTINCT q.instance
          FROM unnest(p_instances, p_rejects) AS a (id, reject) JOIN marty.saga_lock AS q ON q.instance = a.id
         WHERE a.reject AND q.granted IS NULL
    ), blocked AS MATERIALIZED (
        SELECT r.instance, (
            SELECT b.instance
              FROM marty.saga_lock AS o
             CROSS JOIN LATERAL (SELECT q.instance FROM marty.saga_lock AS q
                                  WHERE q.scope = o.scope AND q.key = o.key AND q.ticket < o.ticket
                                  ORDER BY q.ticket LIMIT 1) AS b
             WHERE o.instance = r.instance ORDER BY o.key LIMIT 1) AS before
          FROM refused AS r
    ), gone AS (
        DELETE FROM marty.saga_lock AS q USING blocked AS b WHERE q.instance = b.instance
    )
    SELECT array_agg(b.instance), array_agg(b.before) INTO v_refused, v_before FROM blocked AS b;
    IF v_refused IS NOT NULL THEN
        PERFORM marty.settle_saga_locks(v_scope, p_keys);
    END IF;

    RETURN QUERY
    SELECT f.id, 'freed'::text, NULL::uuid FROM unnest(p_freed, p_freed_lanes) AS f (id, lane) WHERE (v_ours >> f.lane) & 1 = 1
    UNION ALL
    SELECT q.instance, CASE WHEN bool_and(q.granted IS NOT NULL) THEN 'held' ELSE 'waits' END, NULL
      FROM marty.saga_lock AS q WHERE q.instance = ANY (p_instances) GROUP BY q.instance
    UNION ALL
    SELECT r.id, 'refused', r.before FROM unnest(v_refused, v_before) AS r (id, before);
END
$$;

-- For a new owner of lanes: which of their instances hold their locks. Rows that ended instances left behind there go.
CREATE FUNCTION marty.recall_saga_locks(p_resource text, p_lanes integer[]) RETURNS SETOF uuid
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_scope text := split_part(p_resource, '/', 1);
    v_keys  text[];
BEGIN
    PERFORM marty.lock_saga_locks(v_scope);
    WITH gone AS (
        DELETE FROM marty.saga_lock AS q
         WHERE q.resource = p_resource AND q.lane = ANY (p_lanes)
           AND NOT EXISTS (SELECT FROM marty.saga_instance AS i
                            WHERE i.id = q.instance AND i.state IN ('Waiting', 'Running', 'Compensating', 'Parked'))
        RETURNING q.key
    )
    SELECT array_agg(DISTINCT key) INTO v_keys FROM gone;
    IF v_keys IS NOT NULL THEN
        PERFORM marty.settle_saga_locks(v_scope, v_keys);
    END IF;
    RETURN QUERY
    SELECT DISTINCT q.instance FROM marty.saga_lock AS q
     WHERE q.resource = p_resource AND q.lane = ANY (p_lanes) AND q.granted IS NOT NULL;
END
$$;
