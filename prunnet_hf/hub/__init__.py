"""Publishing: the compatibility card of a run."""
