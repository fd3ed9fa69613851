"""Images to train on and to search among."""
