"""Non-learning baselines and oracles."""
