-- When an instance without progress counts as stuck: for those who look into the database without the resource.
ALTER TABLE marty.saga_type ADD COLUMN stuck_after_seconds integer NOT NULL DEFAULT 600;
