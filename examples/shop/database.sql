-- The shop's roles: run by an administrator who is connected to the database `shop`, before anything else.
-- Safe to run again. The passwords are set apart from this file: ALTER ROLE shop PASSWORD '…'.

-- One role for the services, one for Marty's workers.
DO $$ BEGIN CREATE ROLE shop LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE shop_marty LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;

-- Each service makes its own schema when it starts; `marty migrate` makes the schema marty.
GRANT CREATE ON DATABASE shop TO shop, shop_marty;

-- Read models: the Projection makes its tables here, and the services may read them.
GRANT USAGE, CREATE ON SCHEMA public TO shop_marty;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_marty IN SCHEMA public GRANT SELECT ON TABLES TO shop;

-- So that a relay can name the session whose open transaction delays its own events.
GRANT pg_read_all_stats TO shop_marty;
