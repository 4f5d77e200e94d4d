"""Kernels of the local path: one signature, several implementations."""
