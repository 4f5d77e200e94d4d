"""Code and docs use the terms of the field, plain words and American spelling."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Words that this project once had of its own, and words that readers of Gymnasium would look up.
PHRASES = r"""
    anew | lest | (?:gone|goes|go|going)\s+on\s+with | hangs?\s+on | misspelt | foresee\w*
    | whole\s+or\s+not\s+at\s+all | to\s+the\s+(?:bit|byte) | learns?\s+nothing | cannot\s+be\s+told
    | told\s+the\s+kind | visited[\s_]keys | full_keys | lanes? | mended | judge[ds]? | judging
"""
BRITISH = r"""
    judgement | learnt | spelt | grey
    | (?:behaviou|neighbou|colou|honou|favou)r\w*
    | (?:normal|discret|summar|recogn|optim|initial|synthes|regular|visual|general)
      is(?:e|es|ed|er|ing|ation)
    | centre[ds]? | analyse[ds]?
"""
PATTERN = re.compile(rf"(?<![\w])({PHRASES}|{BRITISH})(?![\w])", re.IGNORECASE | re.VERBOSE)
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


@pytest.mark.parametrize("planted", ["a lane", "goes on\n  with", "behaviour", "full_keys"])
def test_planted_words_are_found(planted: str):
    assert len(found(f"A line.\n{planted}\n")) == 1


def test_properties_are_described_by_sentences():
    """In the API reference a colon in the first line makes the words before it a type."""
    with_colon = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in files()
        if path.suffix == ".py" and ROOT / "tests" not in path.parents
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any("property" in ast.unparse(each) for each in node.decorator_list)
        and ": " in (ast.get_docstring(node) or "").partition("\n")[0]
    ]
    assert with_colon == []
