"""What can be said of an exception is said, whatever its class does."""

import pytest

from spangym.utils.errors import describe_error


class RaisesInterrupt(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise KeyboardInterrupt


class GivesNoText(Exception):  # noqa: N818
    def __str__(self) -> str:
        return 3  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RaisesInterrupt("lost"), "RaisesInterrupt: its message cannot be shown"),
        (GivesNoText("lost"), "GivesNoText: its message cannot be shown"),
        (OSError("\x1b[2J\ud800 caf\udce9"), r"OSError: \x1b[2J\ud800 caf\xe9"),
        (type("Red\x1b[31m", (Exception,), {})("said"), r"Red\x1b[31m: said"),
    ],
)
def test_the_type_and_the_message(error: BaseException, line: str):
    assert describe_error(error) == line
    line.encode("utf-8")


def test_a_message_of_any_length_is_short():
    assert len(describe_error(ValueError("x" * 10**6))) < 2000
