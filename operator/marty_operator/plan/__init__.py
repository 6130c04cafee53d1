"""What each resource needs in the cluster, as pure functions from values to manifests. No clock, no I/O, no kopf."""
