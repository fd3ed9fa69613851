"""How far a network can be pruned, and where: what its weights say of it."""
