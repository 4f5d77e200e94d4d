"""Environments in which the attention span of live layers is the action.

Importing this package registers their ids with Gymnasium.
"""

import lazy_loader

# `__init__.pyi` lists names and modules; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
