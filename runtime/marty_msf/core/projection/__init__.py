"""Projections, purely: events to changes of rows, and a batch of changes to few writes."""
