"""The `prunnet` command: one file for a verb or two, which calls what Python users call."""
