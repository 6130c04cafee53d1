"""Projections that are refused."""

from tests.contract.bad import Bad
from tests.contract.resources import PROJECTION, change

COLUMN = "which spec.readModel.columns does not declare: add it there or correct the name"

BAD_PROJECTIONS = {
    "a client certificate of a projection without TLS": Bad(
        PROJECTION,
        change("spec.kafka.authentication", {"type": "tls", "secretRef": {"name": "shop-user"}}),
        "spec.kafka.authentication",
        "a client shows its certificate over TLS only, but spec.kafka.tls is missing: add it",
    ),
    "upsert of an unknown column": Bad(
        PROJECTION,
        change("spec.events.order_created.upsert.totl", "event.total"),
        "spec.events",
        f'the upsert of "order_created" maps column "totl", {COLUMN}',
    ),
    "update of an unknown column": Bad(
        PROJECTION,
        change("spec.events.order_paid.update.paid", "true"),
        "spec.events",
        f'the update of "order_paid" maps column "paid", {COLUMN}',
    ),
    "event with two effects": Bad(
        PROJECTION,
        change("spec.events.order_paid.delete", True),
        "spec.events[order_paid]",
        "give exactly one of upsert, update and delete: true",
    ),
    "event without an effect": Bad(
        PROJECTION,
        change("spec.events.order_deleted.delete", False),
        "spec.events[order_deleted]",
        "give exactly one of upsert, update and delete: true",
    ),
    "key that is no column": Bad(
        PROJECTION, change("spec.readModel.key", ["id"]), "spec.readModel.key", f'names column "id", {COLUMN}'
    ),
    "key whose values have several spellings": Bad(
        PROJECTION,
        change("spec.readModel.columns.order_id", "jsonb"),
        "spec.readModel.key",
        'column "order_id" is of type jsonb: use a column with one spelling per value',
    ),
    "column that Postgres keeps for itself": Bad(
        PROJECTION,
        change("spec.readModel.columns.xmin", "bigint"),
        "spec.readModel.columns",
        'column "xmin" has the name of a system column of Postgres: give it another name',
    ),
    "table in the schema of Marty": Bad(
        PROJECTION,
        change("spec.readModel.schema", "marty"),
        "spec.readModel.schema",
        'schema "marty" belongs to Postgres or to Marty itself: name a schema of your own',
    ),
    "table in a schema of Postgres": Bad(
        PROJECTION, change("spec.readModel.schema", "pg_toast"), "spec.readModel.schema", "name a schema of your own"
    ),
    "table in the schema of the standard": Bad(
        PROJECTION,
        change("spec.readModel.schema", "information_schema"),
        "spec.readModel.schema",
        "name a schema of your own",
    ),
    "update of nothing": Bad(
        PROJECTION,
        change("spec.events.order_paid.update", {}),
        "spec.events",
        'the update of "order_paid" maps no column beside the key: name the columns it changes',
    ),
    "update of the key alone": Bad(
        PROJECTION,
        change("spec.events.order_paid.update", {"order_id": "event.id"}),
        "spec.events",
        'the update of "order_paid" maps no column beside the key: name the columns it changes',
    ),
    "key column named twice": Bad(
        PROJECTION, change("spec.readModel.key", ["order_id"] * 2), "spec.readModel.key", "name each key column once"
    ),
    "index on no column": Bad(
        PROJECTION,
        change("spec.readModel.indexes", [["status"], ["total", "when"]]),
        "spec.readModel.indexes",
        'the index that starts with "total" names a column that spec.readModel.columns does not declare',
    ),
    "column type that does not exist": Bad(
        PROJECTION, change("spec.readModel.columns.total", "money"), "spec.readModel.columns.total", '"bigint"'
    ),
    "column name that needs quotes": Bad(
        PROJECTION,
        change("spec.readModel.columns.Total", "bigint"),
        "spec.readModel.columns",
        'name "Total" is not allowed',
    ),
    "table name that smuggles SQL": Bad(
        PROJECTION, change("spec.readModel.table", 'x"; drop table y'), "spec.readModel.table", "should match"
    ),
    "topic that Kafka cannot have": Bad(
        PROJECTION, change("spec.source.kafka.topics", ["."]), "spec.source.kafka.topics[0]", "should match"
    ),
    "topic named twice": Bad(
        PROJECTION, change("spec.source.kafka.topics", ["a", "a"]), "spec.source.kafka.topics", "name each topic once"
    ),
}
