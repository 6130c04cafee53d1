"""The demo: the example shop on a real cluster, loaded, disturbed and then checked to the last order."""
