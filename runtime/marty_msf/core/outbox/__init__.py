"""What the outbox relay decides: attempts, causes of failures, batch sizes, turns of priorities, rotation. Pure."""
