"""Training: objectives, gradient integration and the training engine."""
