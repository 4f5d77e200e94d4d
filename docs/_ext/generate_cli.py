"""The command line reference, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from page_parts import code, options_table, prose, table
from typer.core import TyperArgument, TyperGroup, TyperOption

from spangym.experiments.cli.app import app

EXAMPLES = "Examples:"


def pages() -> dict[str, str]:
    """One page with all commands."""
    root: Any = typer.main.get_command(app)
    context = root.make_context("spangym", [], resilient_parsing=True)
    names = root.list_commands(context)
    summaries = (_paragraphs(root.commands[name].help)[0].partition("\n")[0] for name in names)
    links = (f"[`{name}`](#spangym-{name})" for name in names)
    listed = table(["command", "description"], zip(links, summaries, strict=True))
    sections = [f"# Command line\n\n{_paragraphs(root.help)[0]}\n\n{listed}"]
    sections.append(_options(root, context))
    for name in names:
        _, command, _ = root.resolve_command(context, [name])
        sections += _command(command, f"spangym {name}", 2)
    return {"command-line.md": "\n".join(sections)}


def _command(command: Any, path: str, level: int) -> Iterator[str]:
    yield f"{'#' * level} {path}\n"
    text, examples = _paragraphs(command.help)
    yield f"{text}\n"
    context = command.make_context(path, [], resilient_parsing=True)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            yield from _command(command.get_command(context, name), f"{path} {name}", level + 1)
        return
    yield f"```text\n{_usage(command, context, path)}\n```\n"
    yield _options(command, context)
    if examples:
        yield f"Examples:\n\n```sh\n{examples}\n```\n"


def _paragraphs(docstring: str | None) -> tuple[str, str]:
    """Text of a command as Markdown, and its examples."""
    text, _, examples = inspect.cleandoc(docstring or "").partition(EXAMPLES)
    return prose(text), inspect.cleandoc(examples)


def _shown(command: Any, context: Any) -> list[Any]:
    return [each for each in command.get_params(context) if not getattr(each, "hidden", False)]


def _metavar(param: Any) -> str:
    choices = param.type_descriptor.choices
    if param.metavar is None and choices is not None:
        return "|".join(str(getattr(each, "value", each)) for each in choices)
    return (param.metavar or param.name.upper()).removesuffix("...")


def _usage(command: Any, context: Any, path: str) -> str:
    words = [path]
    for each in _shown(command, context):
        if isinstance(each, TyperArgument):
            word = _metavar(each) + ("..." if each.nargs == -1 else "")
            words.append(word if each.required else f"[{word}]")
        elif each.required:
            words.append(f"{each.opts[-1]} {_metavar(each)}")
    return " ".join([*words, "[OPTIONS]"])


def _options(command: Any, context: Any) -> str:
    rows = []
    for each in _shown(command, context):
        value = "" if getattr(each, "is_flag", False) else _metavar(each)
        names = ", ".join(sorted((*each.opts, *each.secondary_opts), key=len))
        if isinstance(each, TyperArgument):
            names, value = value, ""
        rows.append([code(f"{names} {value}".strip()), prose(_help(each))])
    return options_table(["argument or option", "meaning"], rows)


def _help(param: Any) -> str:
    parts = [" ".join((param.help or "").split())]
    default = param.default
    if isinstance(param, TyperOption) and getattr(param, "multiple", False):
        default = None
    if default not in (None, False, (), []) and not callable(default):
        parts.append(f"Default: {code(getattr(default, 'value', default))}.")
    if param.min is not None or param.max is not None:
        parts.append(f"Bounds: {_range(param.min, param.max)}.")
    return " ".join(parts)


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:,}"
    return f"at most {high:,.0f}" if low is None else f"{low:,} to {high:,.0f}"
