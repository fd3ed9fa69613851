"""One file a data set: it reads what its owners hand out, and knows no other data set."""
