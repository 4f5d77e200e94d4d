"""The figures of a pilot."""
