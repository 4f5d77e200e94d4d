import pytest

from spangym.utils.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\0b\r\n\tc\x7f\x9b", r"a\x00b\r\n\tc\x7f\x9b"),
        ("\u202egpj.exe\u2066\u200f\u2028", r"\u202egpj.exe\u2066\u200f\u2028"),
        # A file name that is not UTF-8, and a lone surrogate that is no byte.
        (b"caf\xe9.txt".decode("utf-8", "surrogateescape"), r"caf\xe9.txt"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str):
    assert printable(text) == shown
    assert printable(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["", "fixed:3", "naïve Größe", "注意\u3000力", "\u2212 \u2013 ± 5\u00a0%", "😀"]
)
def test_what_can_be_seen_stays(text: str):
    assert printable(text) == text
