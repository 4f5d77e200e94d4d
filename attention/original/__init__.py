"""The original layers, defects included."""
