"""Agents: the original Refiner, Stable-Baselines3's, baselines and one's own."""

import lazy_loader

# Names and modules stand in `__init__.pyi`: nothing is imported before it is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
