"""Span control of pretrained Transformers models."""
