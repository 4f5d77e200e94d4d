"""Checks for vector environments."""
