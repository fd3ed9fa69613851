"""One file for each data set. It reads the files as the owners publish them, and imports no other data set."""
