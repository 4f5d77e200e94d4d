"""Datasets that episodes are drawn from."""
