"""One trial: train an agent from a seed, store it and evaluate it."""
