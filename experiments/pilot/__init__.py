"""The pilot: models that learn with their spans under control, on speech and on text."""
