"""How losses move networks: the training step, and the ways to run it."""
