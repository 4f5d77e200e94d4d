"""The reference of the built-in agents, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from page_parts import code, options_table, parse_docstring, table

from spangym.agents.agent_names import ALGORITHMS, BUILTIN_AGENTS
from spangym.agents.base import is_resumable
from spangym.agents.registry import AgentSpec, fixed_action_of, get_agent_spec
from spangym.agents.sb3.algorithms import hyperparameters_of
from spangym.agents.sb3.sb3_agent import SB3Agent
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.agents.tabular.q_learning import Refiner
from spangym.utils.signatures import parameters_of

SB3 = "https://stable-baselines3.readthedocs.io/en/master/modules/{}.html"
CONTRIB = "https://sb3-contrib.readthedocs.io/en/master/modules/{}.html"
PAGES = {"maskable_ppo": "ppo_mask", "recurrent_ppo": "ppo_recurrent"}

INTRODUCTION = """# Built-in agents

Names that studies, `--agent` and {py:obj}`spangym.agents.get_agent_spec` take, with their options:
the keys of `hyperparameters` in a study. [Agents](../agents.md) describes them and how to write
your own. *Encoding* is the default encoding of an agent's observations. An agent is *exportable* if
{py:obj}`spangym.agents.export_policy` can turn it into a controller of layers.
"""


def pages() -> dict[str, str]:
    """One page with all agents."""
    specs = {
        each: get_agent_spec(each) for each in BUILTIN_AGENTS if fixed_action_of(each) in (None, 0)
    }
    agents = {name: spec.make(seed=0) for name, spec in specs.items()}
    header = ["agent", "encoding", "learns", "depends on the seed", "resumable", "exportable"]
    rows = [
        [
            f"[`{_title(name)}`](#{_anchor(name)})",
            code(spec.encoding),
            *map(
                _yes,
                (
                    spec.is_trainable,
                    spec.is_stochastic,
                    spec.is_trainable and is_resumable(agents[name]),
                    _is_exportable(agents[name]),
                ),
            ),
        ]
        for name, spec in specs.items()
    ]
    parts = [INTRODUCTION, table(header, rows)]
    for name, spec in specs.items():
        parts += [f"({_anchor(name)})=\n\n## {_title(name)}\n", *_section(name, spec, agents[name])]
    return {"agents.md": "\n".join(parts)}


def _title(name: str) -> str:
    return "fixed:0 to fixed:9" if fixed_action_of(name) == 0 else name


def _anchor(name: str) -> str:
    return f"agent-{re.sub(r'[^a-z0-9]+', '-', name)}"


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _is_exportable(agent: Any) -> bool:
    if isinstance(agent, SB3Agent):
        # Recurrent algorithms have policies with an LSTM only.
        return "MlpPolicy" in agent.algorithm.policy_aliases
    return isinstance(agent, KMeansQAgent) or isinstance(
        getattr(agent, "controller", None), Refiner
    )


def _section(name: str, spec: AgentSpec, agent: Any) -> Iterator[str]:
    if name in ALGORITHMS:
        yield from _algorithm(name, agent)
        return
    sources: list[Any] = [type(agent)]
    if isinstance(agent, KMeansQAgent):
        sources = [type(agent), Refiner, KMeansDiscretizer]
    elif isinstance(agent, TabularAgent):
        sources = [type(agent.controller), type(agent)]
    yield f"{parse_docstring(sources[0])[0]}\n"
    yield f"Class: {', '.join(f'{{py:obj}}`spangym.agents.{each.__name__}`' for each in sources)}\n"
    parameters: dict[str, inspect.Parameter] = {}
    texts: dict[str, str] = {}
    for each in sources:
        parameters |= _with_types(each)
        texts |= parse_docstring(each)[1].get("Args", {})
    if "bootstrap_from" in parameters:
        # The constructor of the named agent may have another default.
        default = agent.bootstrap_from
        parameters["bootstrap_from"] = parameters["bootstrap_from"].replace(default=default)
    options = () if spec.fixed_action is not None else spec.options or ()
    yield _options({each: parameters[each] for each in options}, texts)


def _with_types(cls: Any) -> dict[str, inspect.Parameter]:
    """Parameters of a constructor; their annotations are types, not names of types."""
    hints = typing.get_type_hints(cls.__init__)
    parameters = parameters_of(cls).items()
    return {name: each.replace(annotation=hints.get(name, "")) for name, each in parameters}


def _algorithm(name: str, agent: SB3Agent) -> Iterator[str]:
    docstring = inspect.cleandoc(agent.algorithm.__doc__ or "")
    is_contrib = ALGORITHMS[name].startswith("sb3_contrib")
    page = (CONTRIB if is_contrib else SB3).format(PAGES.get(name, name))
    needs = ' from sb3-contrib (`pip install "spangym[contrib]"`)' if is_contrib else ""
    class_name = agent.algorithm.__name__
    yield f"[{class_name}]({page}){needs}, wrapped by {{py:obj}}`spangym.agents.SB3Agent`, "
    yield "which replaces a few defaults.\n"
    found = re.findall(r"^:param (\w+): ((?:.*\n?)(?:[ \t]+.*\n?|\n)*)", docstring, re.M)
    texts = {each: " ".join(text.split()).replace("``", "`") for each, text in found}
    texts["normalize"] = parse_docstring(SB3Agent)[1]["Args"]["normalize"]
    own = {"normalize": parameters_of(SB3Agent)["normalize"]}
    yield _options(own | hyperparameters_of(agent.algorithm), texts)


def _options(parameters: Mapping[str, inspect.Parameter], texts: Mapping[str, str]) -> str:
    if not parameters:
        return "It has no options.\n"
    rows = [
        [code(name), _type(each.annotation), _default(each.default), texts.get(name, "")]
        for name, each in parameters.items()
    ]
    return options_table(["option", "type", "default", "meaning"], rows)


def _type(annotation: Any) -> str:
    if annotation in ("", inspect.Parameter.empty):
        return ""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(code(repr(each)) for each in typing.get_args(annotation))
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return code(re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text))


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    return code(value.__name__ if isinstance(value, type) else repr(value))
