"""Pages of the results stored under `experiments/results`, one for each run or bench."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from results_info import env_slug, mean_ci, provenance, tradeoff_lines
from stored_tables import RESULTS, TABLES, format_value, markdown, read

from spangym.experiments.analysis.results import COMPARISON_METRICS, PILOT_METRICS, MetricInfo
from spangym.experiments.plots.style import percent

_COMPARED = (
    *("return", "score", "regret", "generalization_gap"),
    *("mean_span", "qk_pairs", "seconds"),
)
_PILOT_QUALITY = ("error", "character_error", "loss")
_PILOT_COST = ("parameters", "milliseconds", "time_ratio", "qk_share", "span")


@dataclass(frozen=True)
class ResultPage:
    """A page of results.

    Attributes:
        title: Title, and the name in the index.
        about: What was measured, in one sentence.
        command: The command that measures it again.
        manifest: Stored file with the machine, the date and the commit.
        body: Makes the tables.
        figure: Stored figure; empty for none.
        pages: Pages of the docs that discuss it.
    """

    title: str
    about: str
    command: str
    manifest: str
    body: Callable[[], str]
    figure: str = ""
    pages: tuple[str, ...] = ()


def _run(
    name: str, title: str, about: str, command: str, *pages: str, figure: str = ""
) -> ResultPage:

    def body() -> str:
        return _pilot(name) if name.startswith("pilot") else _comparison(name)

    path = f"{name}/{figure}" if figure else ""
    return ResultPage(title, about, command, f"{name}/manifest.json", body, path, pages)


def _bench(
    name: str, title: str, about: str, options: str = "", page: str = "performance"
) -> ResultPage:
    file, command = f"bench-{name}-cpu.json", f"spangym bench {name}{options}"
    return ResultPage(title, about, command, file, lambda: _bench_rows(file), pages=(page,))


_TUNED_STUDIES = dict.fromkeys(env_slug(row["environment"]) for row in read("tuned.json")["rows"])
"""Each environment has a study of its name, with the tuned hyperparameters."""

RESULT_PAGES: dict[str, ResultPage] = {
    "quickstart": _run(
        "quickstart",
        "Quickstart",
        "The comparison that `spangym compare` runs by default.",
        "spangym compare",
        figure="reward_curves.png",
    ),
    "suite": _run(
        "suite",
        "Suite",
        "All environments with one set of hyperparameters.",
        "spangym compare suite",
        "statistics",
    ),
    "pretrained": _run(
        "pretrained",
        "Pretrained model",
        "Agents that choose the spans of a pretrained language model.",
        "spangym compare pretrained",
        figure="reward_curves.png",
    ),
    "pareto": _run(
        "pareto",
        "One policy for every cost",
        "Agents that observe the cost coefficient of the episode, and agents that do not.",
        "spangym compare pareto --seeds 3",
        figure="reward_curves.png",
    ),
    "tuned": ResultPage(
        "Tuned agents",
        "Agents with hyperparameters that were searched for each environment.",
        "\n$ ".join(f"spangym compare {each}" for each in _TUNED_STUDIES),
        "tuned.json",
        lambda: f"{TABLES['tuned']()}\n{_searches()}",
        pages=("agents",),
    ),
    "baselines": ResultPage(
        "Baselines",
        "Non-learning baselines and the oracle in every environment.",
        "spangym baselines",
        "baselines.json",
        lambda: TABLES["baselines"](),
        pages=("environments",),
    ),
    "defects": ResultPage(
        "Defects of the original",
        "The effect of each defect of the original layer.",
        "spangym defects",
        "defects.json",
        lambda: TABLES["defects"](),
        pages=("original",),
    ),
    "pilot-speech": _run(
        "pilot-speech-quick",
        "Pilot: speech",
        "A character recognizer that trains while its spans are controlled.",
        "spangym pilot speech",
        "pilot",
        figure="error.png",
    ),
    "pilot-speech-laws": _run(
        "pilot-speech-laws",
        "Pilot: temperature laws",
        "The two temperature laws in the speech recognizer.",
        "spangym pilot speech laws",
        "pilot",
    ),
    "pilot-speech-voices": _run(
        "pilot-speech-voices",
        "Pilot: unseen voices",
        "The speech recognizer with more speakers, noise and reverberation.",
        "spangym pilot speech voices",
        "pilot",
    ),
    "pilot-text": _run(
        "pilot-text-quick",
        "Pilot: text",
        "A byte-level language model that trains while its spans are controlled.",
        "spangym pilot text",
        "pilot",
    ),
    "pilot-text-long": _run(
        "pilot-text-long",
        "Pilot: long text",
        "Full attention and a pooled global path, with 2,048 bytes of context.",
        "spangym pilot text long",
        "pilot",
        figure="error_wall.png",
    ),
    "bench-attention": _bench("attention", "Bench: attention", "Speed of local attention."),
    "bench-attention-2-threads": ResultPage(
        "Bench: attention, two threads",
        "Speed of local attention with two threads.",
        "spangym bench attention --threads 2",
        "bench-attention-cpu-2-threads.json",
        lambda: _bench_rows("bench-attention-cpu-2-threads.json"),
        pages=("performance",),
    ),
    "bench-envs": _bench("envs", "Bench: environments", "What environments add to their layers."),
    "bench-tables": _bench("tables", "Bench: tables", "Speed of trainings that read a table."),
    "ceiling": ResultPage(
        "What an observation is worth",
        "Policies that were trained on the returns of all action sequences, in `SpanBudget-v0`.",
        "spangym bench ceiling SpanBudget-v0 --num-levels 2336 --eval-levels 256",
        "ceiling-cpu.json",
        lambda: TABLES["ceiling"](),
        pages=("agents",),
    ),
    "bench-agents": _bench("agents", "Bench: agents", "Time of a decision."),
    "bench-experiments": _bench(
        "experiments", "Bench: runner", "What the runner adds to its trials."
    ),
    "bench-transformers": _bench(
        "transformers", "Bench: Transformers", "A pretrained model under span control."
    ),
    "bench-document": _bench(
        "document",
        "Bench: document",
        "A pretrained model that reads a mixed document, with fixed spans and with an agent.",
        " --agent ppo.safetensors",
        "guides/transformers",
    ),
    "bench-kvpress": _bench(
        "kvpress",
        "Bench: kvpress",
        "Span control and kvpress on key-value caches of equal size.",
        page="guides/transformers",
    ),
    "bench-pilot": ResultPage(
        "Bench: long inputs",
        "The pilot's models on long inputs, as shares of full attention's cost.",
        "spangym bench pilot",
        "bench-pilot-cpu.json",
        lambda: TABLES["bench-pilot"](),
        pages=("performance",),
    ),
}
"""Pages by name, in the order of the index."""


def pages() -> dict[str, str | bytes]:
    """An index, and a page and the figure of each result."""
    stored = {path.name for path in RESULTS.iterdir() if path.suffix == ".json" or path.is_dir()}
    shown = {page.manifest.partition("/")[0] for page in RESULT_PAGES.values()} | {"searches.json"}
    if stored != shown:
        raise ValueError(
            f"generate_results.RESULT_PAGES and experiments/results differ: {stored ^ shown}"
        )
    written: dict[str, str | bytes] = {"results/index.md": _index()}
    for name, page in RESULT_PAGES.items():
        written[f"results/{name}.md"] = _page(name, page)
        if page.figure:
            written[f"results/{name}.png"] = (RESULTS / page.figure).read_bytes()
    return written


def _index() -> str:
    rows = []
    for name, page in RESULT_PAGES.items():
        date, commit = _measured(page)
        rows.append([f"[{page.title}]({name}.md)", page.about, date, commit])
    table = markdown(["result", "content", "measured", "commit"], rows, text_columns=4)
    names = "\n".join(RESULT_PAGES)
    return f"""# Results

These pages are made from the files in `experiments/results` when the site is built. Results without
a commit were stored before commits were recorded and are older than the present code: see
[Limitations](../../limitations.md).

{table}
```{{toctree}}
:hidden:

{names}
```
"""


def _measured(page: ResultPage) -> tuple[str, str]:
    manifest = read(page.manifest)
    machine = manifest.get("machine", {})
    date = machine.get("date") or manifest.get("started", "")
    commit = machine.get("commit") or manifest.get("code", {}).get("commit") or ""
    # Hyphens at which a narrow column does not break.
    return date[:10].replace("-", "\N{NON-BREAKING HYPHEN}"), f"`{commit[:8]}`" if commit else ""


def _page(name: str, page: ResultPage) -> str:
    manifest = read(page.manifest)
    _, commit = _measured(page)
    older = (
        ""
        if commit
        else "\n> Older than the present code: see [Limitations](../../limitations.md).\n"
    )
    figure = f"\n```{{image}} {name}.png\n:alt: {page.title}\n```\n" if page.figure else ""
    links = ", ".join(f"[{each}](../../{each}.md)" for each in page.pages)
    discussed = f" Discussed in {links}." if links else ""
    return f"""# {page.title}

{page.about}{discussed}

```console
$ {page.command}
```

{provenance(manifest)}
{older}{figure}
{page.body().strip()}
"""


def _comparison(name: str) -> str:
    summary = read(f"{name}/summary.json")
    parts = [_headlines(summary)]
    if len({row["environment"] for row in summary["groups"]}) > 1:
        parts.append(f"## Scores over all environments\n\n{_aggregates(summary)}")
    for environment, rows in groupby(summary["groups"], key=lambda row: row["environment"]):
        listed = sorted(rows, key=lambda row: -row["return"])
        names = [each for each in _COMPARED if each != "generalization_gap" or _has_gap(summary)]
        parts.append(f"## {environment}\n\n{_groups(listed, COMPARISON_METRICS, names)}")
        if at_costs := tradeoff_lines(listed):
            parts.append(f"### Returns by cost coefficient\n\n{markdown(*at_costs)}")
        parts.append(_learning(listed))
        parts.append(_differences(summary, environment, COMPARISON_METRICS["return"]))
    return "\n\n".join(part for part in parts if part)


def _has_gap(summary: Mapping[str, Any]) -> bool:
    """Whether an environment of a comparison has levels."""
    return any(row.get("generalization_gap_n") for row in summary["groups"])


def _pilot(name: str) -> str:
    summary = read(f"{name}/summary.json")
    metrics = PILOT_METRICS["speech" if "speech" in name else "text"]
    parts = [_headlines(summary)]
    splits = dict.fromkeys(row["split"] for row in summary["groups"])
    for split in splits:
        rows = [row for row in summary["groups"] if row["split"] == split]
        title = "Cost" if split == "all" else f"Quality, {split}"
        names = _PILOT_COST if split == "all" else _PILOT_QUALITY
        parts.append(
            f"## {title}\n\n{_groups(rows, metrics, [each for each in names if each in metrics])}"
        )
    parts.append(_differences(summary, summary["groups"][0]["environment"], metrics["error"]))
    return "\n\n".join(parts)


def _headlines(summary: Mapping[str, Any]) -> str:
    return "\n".join(f"* {line}" for line in summary["headlines"])


def _groups(
    rows: Iterable[Mapping[str, Any]], metrics: Mapping[str, MetricInfo], names: Sequence[str]
) -> str:
    """Means of the groups with their intervals and the number of seeds."""
    infos = [metrics[each] for each in names]
    header = ["agent", *(f"{each.label}{each.unit_suffix}" for each in infos), "seeds"]
    lines = [
        [
            row["group"],
            *(mean_ci(row, name, info) for name, info in zip(names, infos, strict=True)),
            f"{max(row[f'{name}_n'] or 0 for name in names):.0f}",
        ]
        for row in rows
    ]
    return markdown(header, lines)


def _learning(rows: Iterable[Mapping[str, Any]]) -> str:
    learners = [row for row in rows if row["steps"]]
    table = _groups(learners, COMPARISON_METRICS, ("steps", "area", "efficiency"))
    return f"Learning:\n\n{table}" if learners else ""


def _differences(summary: Mapping[str, Any], environment: str, info: MetricInfo) -> str:
    """Paired differences, those from fixed spans only from the best of them."""
    returns = {
        row["group"]: row.get("return") or 0
        for row in summary["groups"]
        if row["environment"] == environment and row["group"].startswith("fixed:")
    }
    best = max(returns, key=returns.__getitem__, default="")
    lines = [
        [
            row["group"],
            row["baseline"],
            row["split"],
            _difference(row, info),
            row["outcome"],
            f"{row['n']:.0f}",
        ]
        for row in summary["differences"]
        if row["environment"] == environment
        and (not row["baseline"].startswith("fixed:") or row["baseline"] == best)
    ]
    unit = info.difference_unit or info.unit
    name = f"difference{f', {unit}' if unit else ''}"
    table = markdown(["agent", "minus", "split", name, "outcome", "seeds"], lines, text_columns=3)
    return f"Paired differences:\n\n{table}" if lines else ""


def _difference(row: Mapping[str, Any], info: MetricInfo) -> str:
    renamed = {
        f"difference{end}": row[key]
        for end, key in (("", "difference"), ("_low", "low"), ("_high", "high"))
    }
    return mean_ci(renamed, "difference", info)


def _aggregates(summary: Mapping[str, Any]) -> str:
    by_agent: dict[str, dict[str, Any]] = {}
    for row in summary["aggregates"]:
        by_agent.setdefault(row["group"], {})[row["statistic"]] = row
    statistics = list(dict.fromkeys(row["statistic"] for row in summary["aggregates"]))
    lines = []
    for agent in sorted(by_agent, key=lambda agent: -by_agent[agent]["iqm"]["estimate"]):
        cells = []
        for each in statistics:
            row = by_agent[agent][each]
            value = {"score": row["estimate"], "score_low": row["low"], "score_high": row["high"]}
            cells.append(mean_ci(value, "score", COMPARISON_METRICS["score"]))
        lines.append([agent, *cells])
    columns = [each.replace("iqm", "IQM") for each in statistics]
    return markdown(["agent", *columns], lines)


def _searches() -> str:
    """The searches, with the hyperparameters of the best of their trials."""
    seeds = {row["training_seeds"] for row in read("tuned.json")["rows"]}
    parts = [f"Training seeds of each row: {', '.join(map(str, seeds))}.\n\n## Searches\n"]
    for search in read("searches.json")["searches"]:
        best = max(search["trials"], key=lambda trial: trial["mean_return"])
        rows = [[f"`{name}`", f"`{value}`"] for name, value in best["hyperparameters"].items()]
        parts.append(
            f"### {search['environment'].removeprefix('spangym/')}, {search['agent']}\n\n"
            f"Best of {len(search['trials'])} trials ({search['sampler']}; training seeds: "
            f"{search['training_seeds']}; evaluation episodes: {search['episodes']}): mean return "
            f"of an episode {best['mean_return']:.3f}.\n\n"
            f"{markdown(['hyperparameter', 'value'], rows, text_columns=2)}"
        )
    return "\n".join(parts)


def _bench_rows(file: str) -> str:
    """All figures of a bench with their goals, those that the machine could measure."""
    met = {True: "yes", False: "no", None: ""}
    lines = [
        [
            row["name"],
            format_value(row["value"]),
            "" if row["goal"] is None else f"{row['goal']:g}",
            met[row["met"]],
            row["direction"],
        ]
        for row in read(file)["rows"]
        if row["value"] is not None
    ]
    with_goal = [row for row in read(file)["rows"] if row["met"] is not None]
    share = percent(sum(row["met"] for row in with_goal) / len(with_goal)) if with_goal else ""
    note = f"{share} of the {len(with_goal)} goals are met.\n\n" if with_goal else ""
    return note + markdown(["figure", "value", "goal", "met", "better"], lines)
