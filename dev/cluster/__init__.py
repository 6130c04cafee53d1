"""A real single-node Kubernetes with Postgres and Kafka for this repository's demo and tests.

Standard library only, so that it runs on a fresh machine: `python3 -m dev.cluster up`. Nothing of the product imports it.
"""
