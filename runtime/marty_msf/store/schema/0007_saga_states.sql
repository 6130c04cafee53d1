-- States that came with parallel steps, verbs and semantic locks.

ALTER TABLE marty.saga_instance
    DROP CONSTRAINT saga_instance_state_check,
    DROP CONSTRAINT ended_instances_have_an_end,
    ADD CONSTRAINT saga_instance_state_check CHECK (state IN
        ('Pending',         -- durable, no worker took it up yet
         'Waiting',         -- for its semantic lock
         'Running',         -- going forward
         'Compensating',    -- undoing what may have happened
         'Completed', 'Compensated',
         'Failed',          -- ended without success before anything may have happened
         'Cancelled',       -- by a person, with everything undone
         'Parked')),        -- waits for a person
    ADD CONSTRAINT ended_instances_have_an_end
        CHECK ((ended_at IS NOT NULL) = (state IN ('Completed', 'Compensated', 'Failed', 'Cancelled')));

DROP INDEX marty.saga_instance_live;
CREATE INDEX saga_instance_live ON marty.saga_instance (resource, lane, id)
    WHERE state IN ('Pending', 'Waiting', 'Running', 'Compensating');
-- People look for these above all.
CREATE INDEX saga_instance_parked ON marty.saga_instance (resource, id) WHERE state = 'Parked';

ALTER TABLE marty.saga_counter
    ADD COLUMN failed    bigint NOT NULL DEFAULT 0,
    ADD COLUMN cancelled bigint NOT NULL DEFAULT 0;
