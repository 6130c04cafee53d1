-- Lanes, their owners and the workers that share them. Times are the database's own, never a worker's clock.

CREATE TABLE marty.worker (
    scope       text        NOT NULL,   -- what the worker works on: '<role>:<namespace>/<name>[#part]'
    holder      text        NOT NULL,   -- one process: '<pod>/<random>'; a restarted pod is another holder
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (scope, holder)
);

CREATE TABLE marty.lease (
    scope       text        NOT NULL,
    lane        integer     NOT NULL CHECK (lane >= 0),
    holder      text,                   -- NULL: released, free at once
    epoch       bigint      NOT NULL,   -- rises with every change of owner; fenced writes name the epoch they believe in
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (scope, lane)
) WITH (fillfactor = 50);               -- renewals stay HOT

-- Renews the caller's leases, registers it, and takes free or expired lanes up to its fair share.
-- Returns a row per lane held (or one row with a NULL lane) and the number of live workers.
CREATE FUNCTION marty.claim_lanes(p_scope text, p_holder text, p_lanes integer[], p_ttl_seconds double precision)
RETURNS TABLE (lane integer, epoch bigint, workers integer)
LANGUAGE plpgsql AS $$
DECLARE
    v_expires timestamptz := clock_timestamp() + make_interval(secs => p_ttl_seconds);
    v_workers integer;
    v_share   integer;
BEGIN
    INSERT INTO marty.worker AS w (scope, holder, expires_at) VALUES (p_scope, p_holder, v_expires)
    ON CONFLICT ON CONSTRAINT worker_pkey DO UPDATE SET expires_at = excluded.expires_at;
    DELETE FROM marty.worker w WHERE w.scope = p_scope AND w.expires_at < clock_timestamp() - interval '1 minute';
    SELECT count(*) INTO v_workers FROM marty.worker w WHERE w.scope = p_scope AND w.expires_at > clock_timestamp();
    v_share := ceil(cardinality(p_lanes)::numeric / greatest(v_workers, 1));

    INSERT INTO marty.lease (scope, lane, holder, epoch, expires_at)
    SELECT p_scope, l, NULL, 0, clock_timestamp() FROM unnest(p_lanes) AS l ORDER BY l
    ON CONFLICT ON CONSTRAINT lease_pkey DO NOTHING;

    -- Renew in lane order: a fenced write may hold some of these rows FOR SHARE. A lease of ours that expired but that
    -- nobody took is still ours: its epoch did not change, so no other owner can have written in between.
    PERFORM 1 FROM marty.lease l WHERE l.scope = p_scope AND l.holder = p_holder ORDER BY l.lane FOR UPDATE;
    UPDATE marty.lease l SET expires_at = v_expires WHERE l.scope = p_scope AND l.holder = p_holder;

    -- SKIP LOCKED: two claimers never wait for each other, they share what is free.
    WITH free AS (
        SELECT l.lane FROM marty.lease l
         WHERE l.scope = p_scope AND l.lane = ANY (p_lanes)
           AND (l.holder IS NULL OR l.expires_at < clock_timestamp())
         ORDER BY l.lane
         LIMIT greatest(v_share - (SELECT count(*) FROM marty.lease m WHERE m.scope = p_scope AND m.holder = p_holder), 0)
           FOR UPDATE SKIP LOCKED
    )
    UPDATE marty.lease l
       SET holder = p_holder, epoch = l.epoch + 1, expires_at = v_expires
      FROM free WHERE l.scope = p_scope AND l.lane = free.lane;

    RETURN QUERY
    SELECT l.lane, l.epoch, v_workers FROM marty.lease l WHERE l.scope = p_scope AND l.holder = p_holder ORDER BY l.lane;
    IF NOT FOUND THEN
        RETURN QUERY SELECT NULL::integer, NULL::bigint, v_workers;
    END IF;
END
$$;

-- True when every lane is still the caller's with the epoch it believes in; holds the rows FOR SHARE until commit.
-- The expiry is not compared: while nobody took the lane over, its epoch stands and the write is safe.
CREATE FUNCTION marty.fence(p_scope text, p_holder text, p_lanes integer[], p_epochs bigint[])
RETURNS boolean
LANGUAGE sql AS $$
    SELECT count(*) = cardinality(p_lanes) FROM (
        SELECT 1 FROM marty.lease l JOIN unnest(p_lanes, p_epochs) AS mine (lane, epoch)
            ON l.lane = mine.lane AND l.epoch = mine.epoch
         WHERE l.scope = p_scope AND l.holder = p_holder
         ORDER BY l.lane FOR SHARE OF l
    ) AS held
$$;

-- The one definition of a key's lane. hashtextextended is stable across versions and platforms of one byte order.
CREATE FUNCTION marty.lane_of(p_key text) RETURNS smallint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (hashtextextended(p_key, 0) & 63)::smallint
$$;
