"""The projection worker: Kafka to a read-model table, position and rows in one transaction."""
