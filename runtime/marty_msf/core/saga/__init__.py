"""Sagas as pure values: the compiled definition, the events, the state machine that joins them, and the journal's format."""
