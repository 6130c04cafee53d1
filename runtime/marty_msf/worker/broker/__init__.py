"""Kafka: the only code that touches aiokafka."""
