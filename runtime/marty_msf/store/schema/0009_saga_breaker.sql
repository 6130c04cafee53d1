-- Circuit breakers of a saga type's services, shared by its pods. A service that never failed has no row.
CREATE TABLE marty.saga_breaker (
    resource    text COLLATE "C" NOT NULL,
    service     text COLLATE "C" NOT NULL,
    generation  integer     NOT NULL,       -- rises with every change: who knows an older one is overruled
    phase       text        NOT NULL CHECK (phase IN ('Closed', 'Open', 'Probing', 'Recovering')),
    until       timestamptz NOT NULL,       -- end of the open time, or of the canary's
    cohort      integer     NOT NULL,       -- calls at once while recovering
    holder      text        NOT NULL,       -- who changed it
    error       text        NOT NULL,       -- of the failure that opened it
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (resource, service)
) WITH (fillfactor = 50);
