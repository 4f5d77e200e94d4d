"""Pages of the registered environments: from code, stored results, and texts in `docs/_texts`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import env_figures
import numpy as np
import torch
from config_tables import config_table
from gymnasium import spaces
from results_info import env_slug, is_older, mean_ci, provenance, tradeoff_lines
from stored_tables import RESULTS, ROOT, markdown, read

from spangym.attention.geometry import SpanGeometry
from spangym.attention.observation_spec import ENCODINGS
from spangym.envs import EnvConfig, SpanControlEnv, make_config
from spangym.envs.data.dataset_registry import DATASETS
from spangym.envs.env_config import MAX_TABLE_LAYERS
from spangym.envs.model.model_checkpoint import load_metadata
from spangym.envs.observations import make_observation_space
from spangym.envs.other_environments import other_environments
from spangym.envs.registration import DESCRIPTIONS, ENVIRONMENTS
from spangym.experiments.analysis.results import COMPARISON_METRICS, MetricInfo
from spangym.experiments.benchmarks.baselines import BaselineReturns, read_baselines
from spangym.utils.text import pluralize

TEXTS = ROOT / "docs" / "_texts" / "environments"

_OLDER = (
    "\n\n> Measured with earlier texts and layers than the present ones: see "
    "[Limitations](../../limitations.md)."
)


def pages() -> dict[str, str | bytes]:
    """One page and its figures for each id, an index, and the arguments of `EnvConfig`."""
    rows = {row.id: row for row in read_baselines(RESULTS / "baselines.json")}
    written: dict[str, str | bytes] = {
        "environments/index.md": _index(),
        "environments/arguments.md": _arguments(),
    }
    # Those of pretrained models take hours, and are measured on tables.
    measured = {name for name, arguments in ENVIRONMENTS.items() if "model" not in arguments}
    if missing := measured - rows.keys():
        raise ValueError(f"baselines.json has no row of {', '.join(sorted(missing))}")
    for name in ENVIRONMENTS:
        row = rows.get(name)
        written[f"environments/{env_slug(name)}.md"] = _page(name, row)
        for figure, content in (env_figures.figures(row) if row else {}).items():
            written[f"environments/{env_slug(name)}-{figure}"] = content
    return written


def _short(name: str) -> str:
    return name.removeprefix("spangym/")


def _index() -> str:
    slugs = [env_slug(name) for name in ENVIRONMENTS]
    rows = [[f"[{_short(name)}]({env_slug(name)}.md)", text] for name, text in DESCRIPTIONS.items()]
    table = markdown(["environment", "task"], rows, text_columns=2)
    entries = "\n".join([*slugs, "arguments"])
    others = _others()
    return f"""# Environment reference

All environments share the rules for spaces, rewards and infos in the docstring of
{{py:obj}}`spangym.envs.SpanControlEnv`, and their [arguments](arguments.md).
[Environments](../../environments.md) shows how to use them.

{table}
{others}
```{{toctree}}
:hidden:

{entries}
```
"""


def _others() -> str:
    """The environments of other packages, with their baselines."""
    lines = []
    for name, each in other_environments().items():
        rows = read_baselines(Path(each.baselines)) if each.baselines else []
        found = [row for row in rows if row.id == name]
        numbers = [(row.random, row.best_fixed, row.oracle) for row in found] or [()]
        cells = [_number(number) for number in numbers[0]] or [""] * 3
        lines.append([f"`{name}`", each.description, *cells])
    if not lines:
        return ""
    header = ["environment", "task", "random", "best fixed", "oracle"]
    return (
        "Environments of [other packages](../../guides/own-environments.md), with the mean returns "
        f"of a chunk:\n\n{markdown(header, lines, text_columns=2)}"
    )


def _page(name: str, row: BaselineReturns | None) -> str:
    path = TEXTS / f"{env_slug(name)}.md"
    if not path.is_file():
        raise ValueError(f"{name} has no text: write {path.relative_to(ROOT)}")
    text = _sections(path.read_text("utf-8"))
    config = make_config(name, {})
    parts = {
        "": _facts(name, config),
        "Description": f"{text['Description']}\n\n{_dataset_text(config)}",
        "Layers": _layers(config, text.get("Layers", "")),
        "Actions": _actions(config),
        "Observations": _observations(config),
        "Rewards": _rewards(config),
        "Starting state": _of_docstring("Starting State"),
        "Episode end": _of_docstring("Episode End"),
        "Arguments": _differing_arguments(config),
        "What a good policy does": text["What a good policy does"],
        "Baselines": _baselines(config, row) if row else "Not measured yet.",
        **({"Learned agents": _learners(name, config, row)} if row else {}),
        "References": text["References"],
        "Version history": "* v0: initial version. Until the first release it may change.",
    }
    title = f"# {_short(name)}\n\n{DESCRIPTIONS[name][0].upper()}{DESCRIPTIONS[name][1:]}.\n"
    body = [title, *([_figure(name, row)] if row else [])]
    for heading, part in parts.items():
        body.append(f"## {heading}\n\n{part.strip()}\n" if heading else part)
    return "\n".join(body)


def _sections(text: str) -> dict[str, str]:
    """Texts by the headings of level 2 above them."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def _figure(name: str, row: BaselineReturns) -> str:
    alts = {
        "returns": "Mean return of a chunk for each fixed span, with random, the best "
        "actions by layer, those by content type, and the oracle",
        "spans": "Actions of the oracle for each content type, by layer",
    }
    parts = []
    for theme in ("light", "dark"):
        images = [
            f"```{{image}} {env_slug(name)}-{figure}-{theme}.svg\n:alt: {alt}\n:width: 358px\n```\n"
            for figure, alt in alts.items()
        ]
        parts.append(f":::{{container}} only-{theme}\n{''.join(images)}:::\n")
    marks = (
        "the darker a cell, the longer are the spans that the oracle takes in it"
        if len(row.actions) > env_figures.MAX_LAYERS_OF_CIRCLES
        else "the area of a circle is the share of the chunks in which the oracle takes the action"
    )
    caption = f"*Mean return over {row.chunks} evaluation chunks; {marks}.*"
    return "\n".join(parts) + f"\n{caption}\n"


def _facts(name: str, config: EnvConfig) -> str:
    space = _shape(make_observation_space(config.observation_spec))
    trained = f"trained (`checkpoint={config.checkpoint!r}`)"
    weights = trained if config.checkpoint else f"random weights, seed {config.weights_seed}"
    layers = f"{config.num_layers}, {weights}"
    if config.reads_in_blocks:
        layers = f"{config.num_layers} decisions about the cache of a model, {weights}"
    elif config.blocks:
        layers = f"`model={config.model!r}`, {config.num_layers} decisions about its cache"
    elif config.model:
        layers = f"all layers of `model={config.model!r}` in groups, `groups={config.groups}`"
    steps = f"{pluralize(config.chunks_per_episode, 'chunk')}, {config.episode_steps} steps"
    rows = [
        ["Action space", f"`Discrete({config.num_actions})`"],
        ["Observation space", f"`{space}` (`encoding={config.encoding!r}`)"],
        ["Import", f'`gym.make("{name}")`, after `import spangym`'],
        ["Layers", layers],
        ["Width", f"`dims={config.dims}`, `heads={config.heads}`"],
        ["Chunk", f"{config.ctx} tokens"],
        ["Episode", steps],
        ["Content", f"`dataset={config.dataset!r}`"],
        ["Reward", f"`reward={config.reward!r}`, `cost_coef={_cost_coef(config)}`"],
        ["[Table](../../guides/tables.md)", _table_size(name, config)],
    ]
    return markdown(["", ""], rows, text_columns=2)


def _cost_coef(config: EnvConfig) -> str:
    cost_coef = config.cost_coef
    if isinstance(cost_coef, tuple):
        return f"({cost_coef[0]:g}, {cost_coef[1]:g})"
    return f"{cost_coef:g}"


def _table_size(name: str, config: EnvConfig) -> str:
    sequences = config.num_actions**config.num_layers
    if config.num_layers > MAX_TABLE_LAYERS:
        return (
            f"none: at most {MAX_TABLE_LAYERS} layers; a level has {sequences:,} action sequences"
        )
    return (
        f"`spangym tabulate {_short(name)} --num-levels N`; {sequences} action sequences and "
        f"{_level_bytes(config) / 1e3:.0f} kB a level"
    )


def _level_bytes(config: EnvConfig) -> int:
    """Size of a level in a table, see `docs/guides/tables.md`."""
    actions, features = config.num_actions, 2 * config.dims + 9
    layer = 4 * features + actions * (4 * features + 68)
    return sum(actions**index * layer for index in range(config.num_layers))


def _shape(space: spaces.Space[Any]) -> str:
    """A space as one would write it."""
    if isinstance(space, spaces.MultiDiscrete) and len({*space.nvec.tolist()}) == 1:
        return f"MultiDiscrete([{space.nvec[0]}] * {len(space.nvec)})"
    if isinstance(space, spaces.Box):
        low, high = (
            f"{bound.flat[0]:g}" if len({*bound.flat}) == 1 else "..."
            for bound in (space.low, space.high)
        )
        return f"Box({low}, {high}, {space.shape}, {space.dtype})"
    return str(space)


def _dataset_text(config: EnvConfig) -> str:
    """What the docstring of the dataset says, without its sections."""
    made = DATASETS[str(config.dataset)]
    # A lambda makes an object of the class that it names.
    described: Any = made if made.__name__ != "<lambda>" else type(made("train"))
    doc = inspect.getdoc(described) or ""
    body = re.split(r"\n\n(?:Args|Attributes|Raises|Returns|Example):", doc)[0]
    code = re.sub(r"``(.+?)``", r"`\1`", body)
    where = f"{described.__module__}.{described.__qualname__}"
    return f"{code}\n\nThe code is `{where}`."


def _block_layers(config: EnvConfig, text: str) -> str:
    metadata = load_metadata(config.checkpoint)
    trained, model = metadata["pretrain_config"], metadata["model"]
    losses = metadata["loss_bits_by_action"]
    rows = [
        ["optimizer steps", f"{trained['steps']:,}, of {trained['batch']} documents"],
        ["width, heads, hidden units", f"{model['dims']}, {model['heads']}, {model['hidden']}"],
        ["blocks of a document", f"{config.blocks}, of {model['block']} bytes"],
        ["training time", f"{metadata['seconds'] / 60:.1f} minutes on one core"],
    ]
    by_size = markdown(
        ["blocks kept", *losses],
        [["loss, bits a target", *(f"{loss:.3f}" for loss in losses.values())]],
    )
    return (
        f"{text}\n\n{markdown(['', ''], rows, text_columns=2)}\n"
        f"`spangym pretrain {_env_of(config.checkpoint)}` trains it again. Its loss on evaluation "
        f"documents when every decision keeps so many blocks at most:\n\n{by_size}"
    )


def _layers(config: EnvConfig, text: str) -> str:
    if config.reads_in_blocks:
        return _block_layers(config, text)
    if not config.checkpoint:
        return text
    metadata = load_metadata(config.checkpoint)
    trained, model = metadata["pretrain_config"], metadata["model"]
    losses = metadata["loss_bits_by_action"]
    rows = [
        ["optimizer steps", f"{trained['steps']:,}, of {trained['batch']} chunks"],
        [
            "spans in training",
            "uniformly random for each chunk and layer, full for "
            f"{100 * trained['p_full_span']:.0f} % of the chunks",
        ],
        ["local attention", "causal" if model["causal"] else "bidirectional"],
        ["hidden units of a block", f"{model['hidden']}"],
        ["classes of the task", f"{model['num_classes']}"],
        ["training time", f"{metadata['seconds'] / 60:.1f} minutes on one core"],
    ]
    by_action = markdown(
        ["action in every layer", *losses],
        [["loss, bits a target", *(f"{loss:.3f}" for loss in losses.values())]],
    )
    command = f"spangym pretrain {_env_of(config.checkpoint)}"
    if trained["freeze_global_qk"]:
        text += (
            f"The {model['num_layers']} transformer blocks were trained on the task. Queries and "
            "keys of the global path keep their small initial weights, so that it only averages: "
            "retrieval is left to the local path, whose span is the action."
        )
    return (
        f"{text}\n\n{markdown(['', ''], rows, text_columns=2)}\n"
        f"`{command}` trains them again. Their loss on evaluation chunks:\n\n{by_action}"
    )


@cache
def _env_of(checkpoint: str) -> str:
    names = [name for name, given in ENVIRONMENTS.items() if given.get("checkpoint") == checkpoint]
    return _short(names[0])


def _model_actions(config: EnvConfig) -> str:
    if config.blocks:
        header = ["action", *map(str, range(config.num_actions))]
        table = markdown(header, [["tokens that stay", *map(str, config.spans)]])
        return (
            "An action is one of the spans of the argument `spans`: before the next block is read, "
            "so many of the last tokens stay in the cache, if they are still there"
            + (f", and the first `sinks={config.sinks}`" if config.sinks else "")
            + f".\n\n{table}"
        )
    last = torch.arange(config.ctx)[:, None] - torch.arange(config.ctx)
    shares = []
    for span in config.spans:
        near = (last < (config.ctx if span == "full" else int(span))) | (
            torch.arange(config.ctx) < config.sinks
        )
        shares.append(int((near & (last >= 0)).sum()) / config.full_qk_pairs)
    table = markdown(
        ["action", *map(str, range(config.num_actions))],
        [
            ["span, tokens", *map(str, config.spans)],
            ["share of query-key pairs", *(f"{each:.2f}" for each in shares)],
        ],
    )
    return (
        "An action is one of the spans of the argument `spans`: a query sees the keys at smaller "
        f"distances, and the first `sinks={config.sinks}` of the chunk.\n\n{table}"
    )


def _actions(config: EnvConfig) -> str:
    if not config.native_layers:
        return _model_actions(config)
    actions = torch.arange(config.num_actions)
    scale = actions / (config.num_actions - 1)
    if not config.checkpoint:
        scale = scale * 0.5
    spans = SpanGeometry.from_scale(
        scale, win_size=config.win_size, max_span=config.max_span, max_dist=config.max_dist
    )
    causal = bool(config.checkpoint) and load_metadata(config.checkpoint)["model"]["causal"]
    pairs = dataclasses.replace(spans, causal=causal).qk_pairs(config.ctx)
    share = pairs / config.full_qk_pairs
    table = markdown(
        ["action", *map(str, actions.tolist())],
        [
            ["span scale", *(f"{each:.2f}" for each in scale.tolist())],
            [
                "window, tokens",
                *(str(int(w) if s else 0) for w, s in zip(spans.window, spans.span, strict=True)),
            ],
            ["span, tokens", *(str(int(each)) for each in spans.span)],
            ["share of query-key pairs, one pass", *(f"{each:.2f}" for each in share.tolist())],
        ],
    )
    rule = (
        "The span scale is the action divided by 9."
        if config.checkpoint
        else "The span scale is the layer's own prediction, near 0.5, times the action divided by "
        "9. The table is for a prediction of 0.5."
    )
    return f"{rule} Action 0 turns the local path off.\n\n{table}"


def _observations(config: EnvConfig) -> str:
    meanings = {
        "digits": "bins of the means, then of the variances",
        "box": "the same, scaled to [-1, 1]",
        "features": "means and variances of the layer's input",
        "state": "hash of the digits",
    }
    rows = []
    for encoding in ENCODINGS:
        spec = dataclasses.replace(config, encoding=encoding).observation_spec
        rows.append(
            [f"`{encoding}`", f"`{_shape(make_observation_space(spec))}`", meanings[encoding]]
        )
    table = markdown(["encoding", "space", "values"], rows, text_columns=3)
    of_cache = ""
    if config.reads_in_blocks:
        of_cache = (
            " The tokens are those of the last block that was read. One more number for each "
            "action but `full` is the share of that block's attention that went to tokens which "
            "the action would have dropped before. The size of the cache is itself a memory, and "
            "not observed; `include_cache_size=True` adds it."
        )
    return (
        f"Mean and variance over the chunk's tokens of each of the {config.dims} dimensions of the "
        f"layer's normalized input. The content type is never observed."
        f"{of_cache}\n\n{table}\n"
        "`pool_groups`, `autocorrelation`, `include_layer_index` and `include_cost_coef` change "
        "the shapes: see [Arguments](arguments.md)."
    )


def _rewards(config: EnvConfig) -> str:
    rewards = _of_docstring("Rewards")
    cost, _, listed = rewards.partition("\n\n")
    bullet = re.search(
        rf"^\* `{config.reward}`: (.*?)(?=^\* |\Z)", listed, re.DOTALL | re.MULTILINE
    )
    if bullet is None:
        raise ValueError(f"the docstring of SpanControlEnv lacks the reward {config.reward!r}")
    text = " ".join(bullet[1].split("\n\n")[0].split())
    here = f"Here `cost_coef` is {_cost_coef(config)}."
    if isinstance(config.cost_coef, tuple):
        here = f"Here each episode draws `cost_coef` log-uniformly from {_cost_coef(config)}."
    return f"`{config.reward}`: {text}\n\n{cost} {here}"


def _of_docstring(section: str) -> str:
    doc = inspect.getdoc(SpanControlEnv) or ""
    found = re.search(rf"^## {section}\n(.*?)(?=^## )", doc, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"the docstring of SpanControlEnv lacks the section {section!r}")
    return re.sub(r"``(.+?)``", r"`\1`", found[1]).strip()


def _differing_arguments(config: EnvConfig) -> str:
    default = EnvConfig()
    rows = [
        [
            f"`{each.name}`",
            f"`{getattr(config, each.name)!r}`",
            f"`{getattr(default, each.name)!r}`",
        ]
        for each in dataclasses.fields(EnvConfig)
        if getattr(config, each.name) != getattr(default, each.name)
    ]
    if not rows:
        return "All arguments have [their defaults](arguments.md)."
    table = markdown(["argument", "here", "default"], rows, text_columns=3)
    return (
        "These differ from [the defaults](arguments.md). `gym.make` takes any argument, but a "
        f"checkpoint sets the sizes.\n\n{table}"
    )


def _baselines(config: EnvConfig, row: BaselineReturns) -> str:
    def line(policy: str, value: float, actions: Sequence[int] | None = None) -> list[str]:
        pair = "" if actions is None else ", ".join(map(str, actions))
        return [
            policy,
            pair,
            _number(value),
            _number((value - row.random) / (row.oracle - row.random), 2),
        ]

    lines = [line("random", row.random)]
    for action, value in enumerate(row.fixed):
        lines.append(line(f"fixed:{action}", value, [action] * config.num_layers))
    lines += [
        line("best by layer", row.best_by_layer, row.actions),
        line("best by layer and content type", row.content_oracle),
        line("oracle", row.oracle),
    ]
    header = ["policy", "actions by layer", "mean return of a chunk", "score"]
    types = [
        [
            part.content_type,
            str(part.chunks),
            str(part.fixed.index(max(part.fixed))),
            _number(max(part.fixed)),
            ", ".join(map(str, part.actions)),
            _number(part.content_oracle),
            _number(part.oracle),
        ]
        for part in row.by_content_type
    ]
    columns = [
        "content type",
        "chunks",
        "best fixed",
        "its return",
        "best by layer",
        "its return",
        "oracle",
    ]
    machine = read("baselines.json")["machine"]
    by_cost = _by_cost_coef(row) if row.by_cost_coef else ""
    found = "all are tried" if config.num_layers <= 2 else "coordinate ascent finds them"
    oracle = (
        "The oracle tries all action sequences of each chunk."
        if config.num_layers <= 2
        else "The oracle is a beam search over the action sequences of each chunk "
        "({py:obj}`spangym.envs.lookahead.lookahead`): a lower bound of the best return."
    )
    if config.reads_in_blocks:
        oracle = "The oracle tries all that the cache can hold, and is exact."
    return (
        "A score of 0 is random, 1 the oracle. *Best by layer* is one action for each layer; it, "
        f"and that by content type, are selected on the chunks that they are scored on: {found}. "
        f"{oracle}\n\n{markdown(header, lines, text_columns=2)}\n{by_cost}"
        f"By content type:\n\n{markdown(columns, types)}\n"
        f"`spangym baselines {_short(row.id)}` measures these rows. {provenance(machine)}"
    )


def _by_cost_coef(row: BaselineReturns) -> str:
    lines = []
    for part in row.by_cost_coef:
        numbers = (part.random, *part.fixed, part.oracle)
        gap = part.oracle - part.random
        score = (max(part.fixed) - part.random) / gap
        cells = [_number(each) for each in numbers]
        lines.append([f"{part.cost_coef:.2g}", *cells, str(part.best_fixed), _number(score, 2)])
    known = float(np.mean([max(part.fixed) for part in row.by_cost_coef]))
    score = (known - row.random) / (row.oracle - row.random)
    fixed = [f"fixed:{action}" for action in range(len(row.fixed))]
    header = ["cost coefficient", "random", *fixed, "oracle", "best fixed", "its score"]
    return (
        "These are means over five cost coefficients, which only the oracle knows. The best fixed "
        f"span of each coefficient has the score {_number(score, 2)}:\n\n"
        f"{markdown(header, lines)}\n"
    )


def _learners(name: str, config: EnvConfig, row: BaselineReturns) -> str:
    parts = []
    for study in ("quickstart", "suite", "pretrained", "pareto"):
        groups = [
            each
            for each in read(f"{study}/summary.json")["groups"]
            if each["environment"] == _short(name) and each["steps"]
        ]
        if groups:
            parts.append(_study_part(study, config, groups))
    tuned = [each for each in read("tuned.json")["rows"] if each["environment"] == name]
    if tuned:
        parts.append(_tuned_part(tuned, row))
    return "\n\n".join(parts) or "Not measured yet."


def _study_part(study: str, config: EnvConfig, groups: list[dict[str, Any]]) -> str:
    manifest = read(f"{study}/manifest.json")
    of_chunk = MetricInfo("", scale=1 / config.chunks_per_episode, decimals=3)
    lines = [
        [
            each["group"],
            mean_ci(each, "return", of_chunk),
            *(mean_ci(each, name, COMPARISON_METRICS[name]) for name in ("score", "mean_span")),
            f"{each['steps']:,.0f}",
            str(each["return_n"]),
        ]
        for each in sorted(groups, key=lambda each: -each["return"])
    ]
    header = [
        "agent",
        "mean return of a chunk",
        "score",
        "mean span, tokens",
        "training steps",
        "seeds",
    ]
    note = _OLDER if is_older(manifest, config) else ""
    if at_costs := tradeoff_lines(groups):
        note += (
            "\n\nMean returns of an episode at each cost coefficient, and the hypervolume:\n\n"
            f"{markdown(*at_costs)}"
        )
    return (
        f"### Study `{study}`\n\n{markdown(header, lines)}\n"
        f"Means over training seeds with 95 % confidence intervals, in episodes of the evaluation "
        f"split; [all results](../results/{study}.md). {provenance(manifest)}{note}"
    )


def _tuned_part(rows: list[dict[str, Any]], current: BaselineReturns) -> str:
    lines = [
        [
            each["agent"],
            _number(each["mean_return_of_a_chunk"]),
            _number(each["best_pair"]),
            _number(each["oracle"]),
            f"{100 * each['share_of_the_way_from_best_pair_to_oracle']:.0f} %",
            f"{each['total_timesteps']:,}",
            str(each["training_seeds"]),
        ]
        for each in rows
    ]
    header = [
        "agent",
        "mean return of a chunk",
        "best pair",
        "oracle",
        "share of the gap",
        "training steps",
        "seeds",
    ]
    older = any(abs(each["oracle"] - current.oracle) > 1e-6 for each in rows)
    note = _OLDER if older else ""
    return (
        f"### Tuned agents\n\n{markdown(header, lines)}\n"
        "The share of the gap from the best pair to the oracle that the agent closes; "
        f"[hyperparameters and searches](../results/tuned.md).{note}"
    )


def _number(value: float, decimals: int = 3) -> str:
    # Adding 0.0 avoids a negative zero.
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _arguments() -> str:
    return f"""# Arguments

Every environment takes these keyword arguments in `gym.make`; studies take them in `kwargs`. The
docstring of {{py:obj}}`spangym.envs.SpanControlEnv` describes objects of your own for `dataset`,
`reward` and `layers`, and the arguments of the interface. The table is made from
{{py:obj}}`spangym.envs.EnvConfig`.

{config_table(EnvConfig, kind="argument")}"""
