"""OutboxRelays, and connections to Kafka, that are refused."""

from tests.contract.bad import Bad
from tests.contract.resources import MAPPED, RELAY, SECURE, change, remove

BAD_RELAYS = {
    "negative replicas": Bad(RELAY, change("spec.replicas", -1), "spec.replicas", "greater than or equal to 0"),
    "brokers without a port": Bad(
        RELAY, change("spec.kafka", {"bootstrapServers": "kafka"}), "spec.kafka.bootstrapServers", "should match"
    ),
    "broker on a port that does not exist": Bad(
        RELAY,
        change("spec.kafka.bootstrapServers", "kafka:9092,b:99999"),
        "spec.kafka.bootstrapServers",
        "should match",
    ),
    "a client certificate without TLS": Bad(
        RELAY,
        change("spec.kafka.authentication", {"type": "tls", "secretRef": {"name": "shop-user"}}),
        "spec.kafka.authentication",
        "a client shows its certificate over TLS only, but spec.kafka.tls is missing: add it",
    ),
    "a user name beside a client certificate": Bad(
        SECURE,
        change("spec.kafka.authentication", {"type": "tls", "secretRef": {"name": "shop-user"}, "username": "shop"}),
        "spec.kafka.authentication.username",
        "remove username, or use plain or a scram type",
    ),
    "a login without its secret": Bad(
        SECURE,
        change("spec.kafka.authentication", {"type": "plain"}),
        "spec.kafka.authentication.secretRef",
        "Required value",
    ),
    "a login of an unknown type": Bad(
        SECURE,
        change("spec.kafka.authentication.type", "oauth"),
        "spec.kafka.authentication.type",
        'supported values: "tls", "plain", "scram-sha-256", "scram-sha-512"',
    ),
    "an authority without its secret": Bad(
        SECURE,
        change("spec.kafka.tls.trustedCertificates", [{"certificate": "ca.crt"}]),
        "spec.kafka.tls.trustedCertificates[0].secretName",
        "Required value",
    ),
    "acknowledgements that lose events": Bad(
        RELAY, change("spec.kafka.producer", {"acks": "1"}), "spec.kafka.producer.acks", 'supported values: "all"'
    ),
    "a batch that lingers for most of its deadline": Bad(
        SECURE,
        change("spec.batchTimeoutMs", 199),
        "spec.kafka.producer.lingerMs",
        "kafka.producer.lingerMs is more than half of batchTimeoutMs",
    ),
    "a compression that Kafka does not know": Bad(
        RELAY,
        change("spec.kafka.producer", {"compression": "brotli"}),
        "spec.kafka.producer.compression",
        'supported values: "none", "gzip", "snappy", "lz4", "zstd"',
    ),
    "a relay that lingers for long": Bad(
        RELAY,
        change("spec.kafka.producer", {"lingerMs": 5000}),
        "spec.kafka.producer.lingerMs",
        "less than or equal to 1000",
    ),
    "waits of a relay that descend": Bad(
        RELAY,
        change("spec.retry", {"backoffMs": 500, "maxBackoffMs": 100}),
        "spec.retry",
        "backoffMs is longer than maxBackoffMs: lower the one or raise the other",
    ),
    "relay without kafka": Bad(RELAY, remove("spec.kafka"), "spec.kafka", "Required value"),
    "a deadline below the wait between two looks": Bad(
        RELAY,
        change("spec.pollingIntervalMs", 20_000),
        "spec",
        "batchTimeoutMs is shorter than pollingIntervalMs",
    ),
    "batches of nothing": Bad(RELAY, change("spec.batchSize", 0), "spec.batchSize", "greater than or equal to 1"),
    "a negative prefetch": Bad(
        RELAY, change("spec.prefetchCount", -1), "spec.prefetchCount", "greater than or equal to 1"
    ),
    "no processors": Bad(
        RELAY, change("spec.parallelProcessors", 0), "spec.parallelProcessors", "greater than or equal to 1"
    ),
    "no attempts": Bad(
        RELAY, change("spec.deadLetter", {"threshold": 0}), "spec.deadLetter.threshold", "greater than or equal to 1"
    ),
    "a dead-letter topic that Kafka cannot have": Bad(
        RELAY, change("spec.deadLetter", {"topic": ".."}), "spec.deadLetter.topic", "should match"
    ),
    "dead letters that block something unknown": Bad(
        RELAY,
        change("spec.deadLetter", {"blocking": "Lane"}),
        "spec.deadLetter.blocking",
        'supported values: "Key", "None"',
    ),
    "a priority without weight": Bad(
        RELAY, change("spec.priorities", {"low": 0}), "spec.priorities.low", "greater than or equal to 1"
    ),
    "an archive that smuggles SQL": Bad(
        RELAY, change("spec.retention", {"archiveTable": "x; drop"}), "spec.retention.archiveTable", "should match"
    ),
    "an archive that is a table of Marty's own": Bad(
        MAPPED,
        change("spec.retention.archiveTable", "outbox_held"),
        "spec.retention.archiveTable",
        "the table is Marty's own: use another name, such as outbox_archive",
    ),
    "dead letters into a topic of Kafka's own": Bad(
        RELAY,
        change("spec.deadLetter", {"topic": "__consumer_offsets"}),
        "spec.deadLetter.topic",
        "the topic is Kafka's own, where nobody else may write: use another topic",
    ),
    "a mapped table whose events go into a topic of Kafka's own": Bad(
        MAPPED,
        change("spec.source.topic", "__transaction_state"),
        "spec.source.topic",
        "the topic is Kafka's own, where nobody else may write: use another topic",
    ),
    "events kept for no time": Bad(
        MAPPED,
        change("spec.retention.publishedHours", 0),
        "spec.retention.publishedHours",
        "greater than or equal to 1",
    ),
    "a mapped table without a topic": Bad(
        MAPPED, remove("spec.source.topic"), "spec.source", "give either topic or columns.topic"
    ),
    "a mapped table with two topics": Bad(
        MAPPED, change("spec.source.columns.topic", "topic"), "spec.source", "give either topic or columns.topic"
    ),
    "a mapped table that is Marty's own": Bad(
        MAPPED, change("spec.source.table", "marty.outbox"), "spec.source.table", "name a table of your own"
    ),
    "a mapped table without its schema": Bad(
        MAPPED, change("spec.source.table", "outbox_events"), "spec.source.table", "should match"
    ),
    "a mapped column that is SQL": Bad(
        MAPPED, change("spec.source.columns.payload", "payload::text"), "spec.source.columns.payload", "should match"
    ),
    "a dead-letter topic that is the mapped table's": Bad(
        MAPPED,
        change("spec.deadLetter", {"topic": "order.events"}),
        "spec.deadLetter.topic",
        "is spec.source.topic too",
    ),
}
