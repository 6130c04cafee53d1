"""The Kubernetes operator: watches Saga, OutboxRelay and Projection resources, plans their objects, applies them.

It never connects to Postgres or Kafka; it meets the runtime only in `marty_msf.core`.
"""
