"""Our relay beside its peers: the same events, the same Postgres, the same broker, one contender at a time."""
