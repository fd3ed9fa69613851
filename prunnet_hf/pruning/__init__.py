"""Which weights a capacity keeps, and what follows from it."""
