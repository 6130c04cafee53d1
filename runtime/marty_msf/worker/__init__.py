"""The processes behind the resources: saga orchestrator, outbox relay, projector, and the shell they share."""
