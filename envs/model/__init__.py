"""The layers of an environment, their weights and their training."""
