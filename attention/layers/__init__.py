"""Attention layers whose span is set for each sequence."""
