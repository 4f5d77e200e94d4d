"""Attention layers whose span is set for each input, and their features and statistics."""

import lazy_loader

# `__init__.pyi` lists the names; a module is imported when one of its names is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
