"""The saga worker: owns lanes, keeps their live instances in memory, and writes one wave of transitions after the other."""
