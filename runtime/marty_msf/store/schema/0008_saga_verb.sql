-- What people ask of single saga instances: the queue that the owners of lanes read, and the audit afterwards.

CREATE TABLE marty.saga_verb (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resource    text COLLATE "C" NOT NULL,
    instance    uuid        NOT NULL,
    lane        smallint    NOT NULL CHECK (lane BETWEEN 0 AND 63),
    verb        text        NOT NULL,
    arguments   bytea       NOT NULL CHECK (octet_length(arguments) <= 1048576),   -- a JSON object
    asked_by    text        NOT NULL CHECK (length(asked_by) BETWEEN 1 AND 200),
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    done        boolean,                -- NULL: nobody answered yet
    answer      text,                   -- what was done, or why not
    answered_at timestamptz,
    CONSTRAINT an_answer_is_whole CHECK (num_nonnulls(done, answer, answered_at) IN (0, 3))
);

-- What owners look for, several times a second: almost always empty.
CREATE INDEX saga_verb_open ON marty.saga_verb (resource, lane, id) WHERE done IS NULL;
CREATE INDEX saga_verb_instance ON marty.saga_verb (instance, id);
