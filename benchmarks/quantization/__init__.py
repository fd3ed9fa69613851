"""Quantised galleries by bytes an image: product quantisers as they are, and those that learn."""
