-- For people who page through dead letters, and for the age of what is held and still to be sent.
CREATE INDEX outbox_held_dead_id ON marty.outbox_held (id) WHERE state = 'Dead';
CREATE INDEX outbox_held_open ON marty.outbox_held (id) WHERE state IN ('Waiting', 'Retrying');
