"""Results of runs and their statistics."""
