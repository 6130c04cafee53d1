"""What the saga worker has to do with Kafka: triggers, commands, replies."""
