"""Marty's library and runtime: sagas, transactional outbox and projections on the team's own Postgres and Kafka.

This module imports nothing, so that the operator and the command line start quickly.
"""
