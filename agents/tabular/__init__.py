"""Tabular Q-learning: the original Refiner and its variants."""
