"""The `prunnet` command: one file for each verb, which calls what Python users call."""
