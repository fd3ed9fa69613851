"""What a network's weights say about how far it can be pruned, and pruning by that."""
