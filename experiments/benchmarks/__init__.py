"""Measurements of speed and memory, defects and baselines."""
