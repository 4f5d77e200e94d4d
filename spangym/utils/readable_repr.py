"""Short reprs: the class and the arguments that differ from their defaults."""

from __future__ import annotations

import dataclasses
import inspect
import reprlib
from typing import Any

_MAX_NUMBERS = 8
"""Most numbers of a tensor or array that is shown in full."""


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxother, self.maxstring, self.maxlevel = 400, 100, 3

    def repr_Tensor(self, x: Any, level: int) -> str:  # noqa: ARG002, N802  (reprlib's names)
        return _array_repr("tensor", x) if x.numel() > _MAX_NUMBERS else " ".join(repr(x).split())

    repr_Parameter = repr_Tensor  # noqa: N815

    def repr_ndarray(self, x: Any, level: int) -> str:  # noqa: ARG002
        return _array_repr("array", x) if x.size > _MAX_NUMBERS else " ".join(repr(x).split())

    def repr_int(self, x: Any, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python refuses to print integers of more than 4300 digits.
            return "an integer of more than 4300 digits"

    def repr_instance(self, x: Any, level: int) -> str:
        # Modules have a line for each of their parts.
        return " ".join(super().repr_instance(x, level).split())


def _array_repr(name: str, x: Any) -> str:
    return f"{name}(shape={tuple(x.shape)}, dtype={str(x.dtype).removeprefix('torch.')})"


short_repr = _Short().repr
"""`repr` with long parts left out; of tensors and arrays the shape and dtype."""


def describe_arguments(instance: object) -> list[str]:
    """``name=value`` for each argument of the constructor that differs from its default.

    The value is the attribute of the same name, or of this name after an underscore. Arguments
    without an attribute are omitted.
    """
    described = []
    fields = getattr(instance, "__dataclass_fields__", {})
    for name, parameter in inspect.signature(type(instance)).parameters.items():
        value = getattr(instance, name, getattr(instance, f"_{name}", inspect.Parameter.empty))
        if value is inspect.Parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
            continue
        default = parameter.default
        if name in fields and fields[name].default_factory is not dataclasses.MISSING:
            default = fields[name].default_factory()
        if value is default or (type(value) is type(default) and value == default):
            continue
        described.append(f"{name}={short_repr(value)}")
    return described


def readable_repr(self: object) -> str:
    """The ``__repr__`` of classes whose arguments are attributes, dataclasses among them.

    Example:
        >>> from spangym.attention import SpanConfig
        >>> SpanConfig(max_span=512, causal=True)
        SpanConfig(max_span=512, causal=True)
    """
    return f"{type(self).__name__}({', '.join(describe_arguments(self))})"
