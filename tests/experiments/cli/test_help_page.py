"""What holds for every command: its help page, its examples, its completion."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperArgument, TyperGroup

from spangym.experiments.cli.app import COMMANDS, OTHER_WORDS, PANELS, load_command
from spangym.experiments.cli.catalog import CATALOG
from spangym.experiments.cli.help_page import examples_of, metavar

from ..conftest import run_here

METAVARS = {
    *("RUN", "STUDY", "ENV_ID", "ENV_ID|RUN", "AGENT", "VARIANT", "FIGURE", "DEVICE", "SEEDS"),
    *(
        "FILE",
        "FOLDER",
        "PATH",
        "N",
        "SECONDS",
        "FRACTION",
        "KEY=VALUE",
        "HOST:PORT",
        "PROMPT",
        "MODEL",
    ),
}

PAGES = [
    *([name] for name in COMMANDS),
    *(
        ["bench", name]
        for name in (
            *("attention", "envs", "tables", "agents", "compare", "document"),
            *("transformers", "kvpress", "gpu", "experiments", "pilot", "ceiling"),
        )
    ),
]
BY_NAME = pytest.mark.parametrize("words", PAGES, ids=" ".join)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """Command that these words call, and the rest of the words."""
    command: Any = load_command(words[0])
    words = words[1:]
    while words and isinstance(command, TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_every_command_is_listed_once():
    assert sorted(name for names in PANELS.values() for name in names) == sorted(COMMANDS)
    assert {*OTHER_WORDS} <= {*COMMANDS, "--help", "--version"}
    bench: Any = load_command("bench")
    assert [each[1] for each in PAGES if len(each) > 1] == [*bench.commands]


@BY_NAME
def test_examples_are_commands_with_these_options(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    command, _ = find_command(words)
    examples = examples_of(command)
    assert 1 <= len(examples) <= 4
    for example in examples:
        program, *line = shlex.split(example.partition(" >")[0].partition(" |")[0])
        assert program == "spangym"
        assert line[: len(words)] == words
        called, arguments = find_command(line)
        # Unknown options, missing arguments and wrong values are errors.
        called.make_context(example, arguments)


@BY_NAME
def test_every_parameter_has_a_help_text_and_a_name_for_its_value(words: list[str]):
    command, _ = find_command(words)
    for each in command.params:
        assert each.help, each.name
        assert each.help.endswith("."), each.help
        if isinstance(each, TyperArgument) or not each.is_flag:
            assert metavar(each) in METAVARS or each.type_descriptor.choices, each.name


@BY_NAME
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_a_page_is_at_most_80_columns_wide(
    words: list[str],
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert run_here(monkeypatch, *words, option) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"Usage: spangym {' '.join(words)}")
    assert "Examples:" in lines
    assert printed.out.isascii()
    assert [line for line in lines if len(line) > 80 or line != line.rstrip()] == []


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        ("COMPARE", "`spangym compare`"),
        ("compar", "`spangym compare`"),
        ("plot", "`spangym curves`"),
        ("Plot", "`spangym curves`"),
        ("ls", "`spangym list`"),
        ("enjoy", "`spangym watch`"),
        ("evaluate", "`spangym validate`"),
        ("rank", "`spangym leaderboard`"),
        ("hpo", "`spangym tune`"),
        ("benchmark", "`spangym bench`"),
        ("save", "`spangym export`"),
        ("help", "`spangym --help`"),
        ("bench atention", "'attention'"),
        ("compare --seed 3", "`spangym compare --seeds`"),
        ("compare --steps 3", "`spangym compare --total-timesteps`"),
        ("pilot --timesteps 3", "`spangym pilot --updates`"),
        ("compare -j 3", "`spangym compare --workers`"),
        ("compare -o x", "`spangym compare --out`"),
        ("compare --algo dqn", "`spangym compare --agent`"),
        ("compare --QUIET", "`spangym compare --quiet`"),
        ("compare Quickstart", "'quickstart'"),
        ("compare --nonsense", "see: spangym compare --help"),
        ("compare --seeds", "--seeds"),
        ("tune quickstart", "see: spangym tune --help"),
        ("nonsense", "see: spangym --help"),
    ],
)
def test_errors_are_one_line_that_says_what_would_be_right(
    words: str, suggested: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, *words.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("spangym: ")
    assert printed.err.count("\n") == 1
    assert suggested in printed.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("spangym c", {"compare", "curves"}),
        ("spangym compare --s", {"--seeds"}),
        ("spangym compare s", {"suite", "sparsity", "span-budget", "span-control"}),
        ("spangym compare --agent refiner", {"refiner", "refiner-kmeans"}),
        ("spangym compare --executor ", {"local", "ray"}),
        ("spangym watch spangym/Spar", {"spangym/Sparsity-v0"}),
        ("spangym tune quick", {"quickstart"}),
        ("spangym pretrain spangym/L", {"spangym/LongRange-v0"}),
        ("spangym curves run --figure par", {"pareto"}),
        ("spangym bench at", {"attention"}),
        ("spangym list st", {"studies"}),
        ("spangym list ta", {"tables"}),
        ("spangym tabulate spangym/L", {"spangym/LongRange-v0"}),
    ],
)
def test_completion(
    shell: str,
    line: str,
    expected: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("_SPANGYM_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert run_here(monkeypatch) == 0
    out = capsys.readouterr().out
    pattern = r'^(?:_arguments .*\(\()?"([^"]+)"' if shell == "zsh" else r"^(\S+)"
    found = {*re.findall(pattern, out, re.MULTILINE)}
    assert expected <= found
    start = line.rpartition(" ")[2]
    assert all(each.startswith(start) for each in found)


@pytest.mark.parametrize("kind", CATALOG)
def test_lists_have_a_line_for_each_name(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, "list", kind) == 0
    lines = capsys.readouterr().out.splitlines()
    names = CATALOG[kind]()
    assert [line.split("  ")[0].strip() for line in lines] == [*names]
    assert all(names.values())


def test_names_help_and_completion_import_no_large_library():
    """One process for all: of every command, the module, the page and the completion."""
    lines = [["--version"], ["list"], ["compare", "--sede"], *([*each, "-h"] for each in PAGES)]
    code = f"""
import os, sys
from spangym.experiments.cli.entry import main
for words in {lines}:
    sys.argv = ["spangym", *words]
    try:
        main()
    except SystemExit:
        pass
os.environ["_SPANGYM_COMPLETE"] = "complete_zsh"
os.environ["_TYPER_COMPLETE_ARGS"] = "spangym compare --agent r"
try:
    main()
finally:
    large = {{"torch", "stable_baselines3", "pandas", "scipy", "matplotlib", "optuna", "ray"}}
    print("imported:", *large & {{*sys.modules}}, end="", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.rpartition("\n")[2] == "imported:"


def test_a_reader_that_stops_early_is_no_error():
    program = f"{shlex.quote(sys.executable)} -m spangym"
    for words in ("list", "list agents", "--help"):
        command = ["bash", "-c", f"{program} {words} | (exec 0<&-; true)"]
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""
