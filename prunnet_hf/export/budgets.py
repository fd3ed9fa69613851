"""The largest capacity within a budget."""
