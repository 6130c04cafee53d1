"""Orders that are saved with their events, and a stock that handles each event once."""
