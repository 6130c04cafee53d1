-- They act with the rights of who migrated and lock tables, so they are not for everybody who may enqueue an event. A user of
-- workers that is not the one who migrated needs EXECUTE.
REVOKE EXECUTE ON FUNCTION marty.rotate_saga_partition(regclass, integer), marty.drop_saga_partition(regclass) FROM PUBLIC;
