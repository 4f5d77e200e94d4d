"""Errors that are the user's to fix."""

from __future__ import annotations


class UserError(Exception):
    """Something in the input is wrong; the message says in a line what, and what would be right."""
