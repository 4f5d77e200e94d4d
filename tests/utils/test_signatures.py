from typing import Any

import pytest

from spangym.utils.signatures import construct, keyword_names, parameters_of, takes_any_keyword
from spangym.utils.suggestions import did_you_mean


class Base:
    def __init__(self, rate: float = 0.1, *, seed: int | None = None):
        self.rate, self.seed = rate, seed

    def play(self, steps: int, masked: bool = False) -> None: ...


class Forwards(Base):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)

    def play(self, *args: Any, **kwargs: Any) -> None: ...


class Adds(Forwards):
    def __init__(self, depth: int, rate: float = 0.2, **options: Any):
        super().__init__(rate, **options)
        self.depth = depth


class Closes(Adds):
    def __init__(self, depth: int):
        super().__init__(depth)


class Nothing(Closes):
    pass


class Mixin:
    def __init__(self, *args: Any, width: int = 3, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.width = width


class Mixed(Mixin, Base):
    pass


class Open:
    def __init__(self, **kwargs: Any): ...


@pytest.mark.parametrize(
    ("cls", "names", "is_open"),
    [
        (Base, ("rate", "seed"), False),
        (Forwards, ("rate", "seed"), True),
        (Adds, ("depth", "rate", "seed"), True),
        (Closes, ("depth",), False),
        (Nothing, ("depth",), False),
        (Mixed, ("width", "rate", "seed"), True),
        (Open, (), True),
        (type("Empty", (), {}), (), False),
        (type("Table", (dict,), {}), (), True),
    ],
)
def test_constructors(cls: type[Any], names: tuple[str, ...], is_open: bool):
    parameters = parameters_of(cls)
    assert keyword_names(parameters) == names
    assert takes_any_keyword(parameters) == is_open


def test_own_defaults_take_precedence():
    assert parameters_of(Adds)["rate"].default == 0.2


def test_methods_and_functions():
    assert keyword_names(parameters_of(Forwards().play)) == ("steps", "masked")
    assert keyword_names(parameters_of(Nothing(2).play)) == ("steps", "masked")
    assert keyword_names(parameters_of(did_you_mean)) == ("name", "known")


def test_unknown_arguments_are_named():
    made = construct(Adds, {"depth": 2, "seed": 5})
    assert (made.depth, made.rate, made.seed) == (2, 0.2, 5)
    with pytest.raises(TypeError, match=r"Adds has no argument 'sed'; did you mean 'seed'"):
        construct(Adds, {"depth": 2, "sed": 5})
    with pytest.raises(TypeError, match="depth"):
        construct(Adds, {})
