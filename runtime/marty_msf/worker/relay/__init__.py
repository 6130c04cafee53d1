"""The outbox relay: reads the outbox by snapshot windows and publishes it to Kafka in order per aggregate."""
