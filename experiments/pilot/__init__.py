"""The pilot: models that learn while their attention spans are controlled."""
