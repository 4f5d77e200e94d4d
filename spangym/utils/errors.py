"""The exception of input errors."""

from __future__ import annotations


class UserError(Exception):
    """An input is wrong; the one-line message says where, and what would be right."""
