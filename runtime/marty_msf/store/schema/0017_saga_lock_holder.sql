-- One holder of a key: what the functions of semantic locks keep to is also a rule of the table.
CREATE UNIQUE INDEX saga_lock_holder ON marty.saga_lock (scope, key) WHERE granted IS NOT NULL;
