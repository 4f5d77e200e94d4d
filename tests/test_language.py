"""Code and docs use the terms of the field, plain words and American spelling."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Words that this project once had of its own, or that readers of Gymnasium would look up.
WORDS = (
    r"anew lest gone[- ]on[- ]with goes[- ]on[- ]with hangs?[- ]on misspelt foreseeing foreseen"
    r" whole[- ]or[- ]not[- ]at[- ]all to[- ]the[- ]bit to[- ]the[- ]byte learns?[- ]nothing"
    r" cannot[- ]be[- ]told told[- ]the[- ]kind visited[- _]keys full_keys lanes? mended"
    r" judged? judging judgement learnt spelt behaviour neighbou?rs?(?=ing)? colou?rs?(?=ed)?"
    r" normalis\w+ discretis\w+ summaris\w+ recognis\w+ optimis\w+ initialis\w+ synthesis(?:e|er|ed)"
    r" centre[ds]? analys(?:e|ed|es) grey honour\w* favour\w*"
).split()
# American spellings that the patterns above also match.
ALLOWED = {"neighbor", "neighbors", "color", "colors", "colored"}
PATTERN = re.compile(rf"(?<![\w])({'|'.join(WORDS)})(?![\w])", re.IGNORECASE)
SUFFIXES = {".py", ".pyi", ".md", ".toml", ".html", ".js", ".css"}


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    paths = [ROOT / each for each in listed]
    return [
        path
        for path in paths
        if path.suffix in SUFFIXES
        and path.is_file()
        and path != Path(__file__)
        and path.name != "CHANGELOG.md"
    ]


def found(text: str) -> list[str]:
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for match in PATTERN.finditer(text)
        if match[0].lower() not in ALLOWED
    ]


@pytest.mark.parametrize(
    "folder", ["spangym", "attention", "envs", "agents", "experiments", "docs"]
)
def test_terms_of_the_field(folder: str):
    wrong = {
        str(path.relative_to(ROOT)): words
        for path in files()
        if path.is_relative_to(ROOT / folder) and (words := found(path.read_text("utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize("planted", ["every lane", "computed anew", "the behaviour", "full_keys"])
def test_planted_words_are_found(planted: str):
    assert len(found(f"A line.\n{planted}\n")) == 1
