"""Training into a space that exists, measured; see `__main__`."""
