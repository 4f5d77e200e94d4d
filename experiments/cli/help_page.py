"""Help pages and usage errors of the commands.

A page is made from the command itself: its docstring, and the help, metavar and choices of each
parameter. The section ``Examples:`` of a docstring holds commands, which are printed as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, cast

from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from spangym.experiments.cli.terminal import completion_help, make_console, print_lists
from spangym.utils.errors import UserError
from spangym.utils.suggestions import closest, did_you_mean

EXAMPLES = "Examples:"

_WIDEST = 100
"""Columns of a page on a wide terminal: longer lines are hard to read."""

_SAME_OPTION = (
    {"--seeds", "--seed", "--num-seeds", "--n-seeds"},
    {"--total-timesteps", "--updates", "--timesteps", "--steps", "--n-timesteps", "--num-steps"},
    {"--workers", "--n-jobs", "--jobs", "--num-workers", "--threads", "-j"},
    {"--out", "--output", "--output-dir", "--logdir", "--log-folder", "--save", "-o"},
    {"--agent", "--algo", "--algorithm", "--policy"},
    {"--env", "--environment", "--env-id"},
    {"--episodes", "--n-episodes", "--num-episodes"},
    {"--trials", "--n-trials"},
    {"--search-space", "--space"},
    {"--figure", "--plot", "--kind"},
    {"--set", "--hyperparams", "--hyperparameters", "--params", "--env-kwargs", "-p"},
    {"--dry-run", "--dryrun", "-n"},
    {"--quiet", "--silent", "-q"},
    {"--device", "--cuda", "--gpu"},
)
"""Names that this and other programs give to the same option."""


class _WithHelpPage:
    """The help page of a command or group, and errors that suggest the right option."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Let ``-h`` print the page too."""
        return super().make_context(*args, **more, help_option_names=["-h", "--help"])  # pyright: ignore

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line; a UserError for an option that does not exist."""
        try:
            return super().parse_args(ctx, args)  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:
            # The class of the exception is private in Typer.
            if hasattr(error, "possibilities"):
                raise UserError(_describe_unknown_option(self, ctx, error)) from error
            raise

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the options and commands that begin so, with short help texts."""
        items = super().shell_complete(ctx, incomplete)  # pyright: ignore
        for each in items:
            each.help = completion_help(each.help or "")
        return items

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        del formatter
        print_page(cast(TyperCommand, self), ctx)


class HelpCommand(_WithHelpPage, TyperCommand):
    """A command with a compact help page, whose usage errors suggest the right option."""


class HelpGroup(_WithHelpPage, TyperGroup):
    """A group of commands with a compact help page that shows the commands by panel."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; a UserError with a suggestion if there is none."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise UserError(self.describe_unknown(ctx, args[0]))
        return super().resolve_command(ctx, args)

    def describe_unknown(self, ctx: Any, name: str) -> str:
        """Return the error message of a name that is no command."""
        hint = did_you_mean(name, self.commands)
        return f"{ctx.command_path!r} has no command {name!r}{hint}"


def _describe_unknown_option(command: Any, ctx: Any, error: Any) -> str:
    name = error.option_name
    options = [each for each in command.get_params(ctx) if isinstance(each, TyperOption)]
    known = {long.lstrip("-"): long for each in options for long in each.opts if "--" in long}
    same = [
        long for group in _SAME_OPTION if name in group for long in known.values() if long in group
    ]
    near = same or [known[each] for each in closest(name.lstrip("-"), known)]
    path = ctx.command_path
    hint = " or ".join(f"`{path} {each}`" for each in near)
    return f"there is no option {name!r}; " + (
        f"did you mean {hint}?" if near else f"see: {path} --help"
    )


def print_page(command: TyperCommand | TyperGroup, ctx: Any) -> None:
    """Print the help page of a command."""
    console = make_console(80)
    console.width = min(console.width, _WIDEST)
    paragraphs, examples = _split_help(command.help or "")
    params = [each for each in command.get_params(ctx) if not getattr(each, "hidden", False)]
    arguments = [each for each in params if isinstance(each, TyperArgument)]
    options = [each for each in params if isinstance(each, TyperOption)]
    usage = Text.assemble(("Usage: ", "bold"), ctx.command_path)
    usage.append("".join(f" {word}" for word in _usage(command, arguments, options)))
    for paragraph in (usage, *map(Text, paragraphs)):
        for line in paragraph.wrap(console, console.width):
            line.rstrip()
            console.print(line)
        console.print()
    lists: dict[str, list[tuple[Text, Text]]] = {}
    if isinstance(command, TyperGroup):
        for name in command.list_commands(ctx):
            if (each := command.get_command(ctx, name)) is not None and not each.hidden:
                panel = getattr(each, "rich_help_panel", None) or "Commands"
                line = Text(_split_help(each.help or "")[0][0])
                lists.setdefault(panel, []).append((Text(name, "bold cyan"), line))
        print_lists(console, lists)
        console.print()
        lists = {}
    for each in arguments:
        lists.setdefault("Arguments", []).append((_argument_name(each), _help(each)))
    for each in options:
        panel = each.rich_help_panel or "Options"
        lists.setdefault(panel, []).append((_option_name(each), _help(each)))
    print_lists(console, lists)
    if examples:
        console.print(Text(f"\n{EXAMPLES}", "bold"))
        for line in examples:
            command_words, mark, comment = line.partition("  #")
            example = Text.assemble("  ", command_words, (f"{mark}{comment}", "dim"))
            # A command that is longer than the line can be copied nevertheless.
            console.print(example, soft_wrap=True)


def examples_of(command: TyperCommand | TyperGroup) -> list[str]:
    """Return the commands that a help page shows as examples."""
    return [line.partition("  #")[0].strip() for line in _split_help(command.help or "")[1]]


def _split_help(docstring: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a docstring and the lines of its examples."""
    text, _, examples = inspect.cleandoc(docstring).partition(f"\n{EXAMPLES}\n")
    paragraphs = [" ".join(each.split()) for each in text.strip().split("\n\n")]
    return paragraphs, [line.strip() for line in examples.splitlines() if line.strip()]


def _usage(
    command: TyperCommand | TyperGroup, arguments: Iterable[Any], options: Sequence[Any]
) -> Iterable[str]:
    for each in arguments:
        name = _argument_name(each).plain
        yield name if each.required else f"[{name}]"
    yield from (f"{each.opts[-1]} {metavar(each)}" for each in options if each.required)
    if isinstance(command, TyperGroup):
        yield "COMMAND"
    if len(options) > sum(each.required for each in options):
        yield "[OPTIONS]"


def metavar(param: TyperArgument | TyperOption) -> str:
    """Return the name of a parameter's value on a page: its metavar, or its choices."""
    choices = param.type_descriptor.choices
    if param.metavar is None and choices is not None:
        return "|".join(str(getattr(each, "value", each)) for each in choices)
    return param.metavar or param.name.upper()


def _argument_name(param: TyperArgument) -> Text:
    return Text(metavar(param) + ("..." if param.nargs == -1 else ""), "bold cyan")


def _option_name(param: TyperOption) -> Text:
    short = next((each for each in param.opts if not each.startswith("--")), None)
    long = [each for each in param.opts if each.startswith("--")]
    name = Text("    " if short is None else f"{short}, ", "bold cyan")
    name.append(", ".join(long))
    if not param.is_flag:
        name.append(f" {metavar(param)}", "not bold yellow")
    return name


def _help(param: Any) -> Text:
    text = Text(" ".join((param.help or "").split()))
    default = param.default
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        value = f"{default:g}" if isinstance(default, float) else default
        text.append(f" [default: {value}]", "dim")
    return text
