"""Our training beside other methods: what is run, in what order, and what came out. Begin with `__main__.py`."""
