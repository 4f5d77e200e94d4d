"""Write the tables and numbers of README.md and docs/*.md from the stored results.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, a number in a sentence between
``<!-- value: PATH -->`` and ``<!-- end -->``; `stored_value` says what a path is. Run this script
after results have changed; a test checks that the pages are up to date.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from spangym.attention.geometry import full_qk_pairs
from spangym.envs import EnvComponents, make_config
from spangym.envs.registration import DESCRIPTIONS
from spangym.envs.tables.table_file import open_shipped
from spangym.envs.tables.tabulate import TERMS
from spangym.envs.transition import METRICS
from spangym.experiments.analysis.results import PILOT_METRICS
from spangym.experiments.benchmarks.baselines import read_baselines
from spangym.experiments.benchmarks.long_inputs import long_inputs_table
from spangym.experiments.benchmarks.original_defects import COLUMNS as DEFECT_COLUMNS
from spangym.experiments.benchmarks.original_defects import Defect
from spangym.experiments.reports.tables import format_number, mean_ci_cell, to_markdown
from spangym.utils.text import MINUS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = ROOT / "experiments" / "results"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: (.+?) -->).*?(<!-- end -->)", re.DOTALL)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table whose columns are right-aligned after the first ``text_columns``.

    Negative numbers get a minus sign, as in the tables of reports.
    """
    rows = [[re.sub(r"^-(?=\d)", MINUS, cell) for cell in row] for row in rows]
    marks = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, marks, *rows))


def format_value(value: float) -> str:
    """Three significant digits, without an exponent.

    Example:
        >>> format_value(0.0123456), format_value(12345.6)
        ('0.0123', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def read(name: str) -> Any:
    """A stored JSON file."""
    return json.loads((RESULTS / name).read_text("utf-8"))


def environments() -> str:
    """The registered ids, with what an agent is to do there."""
    rows = [[f"`{name}`", text] for name, text in DESCRIPTIONS.items()]
    return markdown(["id", "task"], rows, text_columns=2)


def baselines() -> str:
    """Mean returns of a chunk of the baselines, one row for each id."""
    header = ["environment", "chunks", "random", "best fixed", "its action", "best by layer"]
    rows = []
    for row in read_baselines(RESULTS / "baselines.json"):
        returns = (row.random, row.best_fixed, row.best_by_layer, row.content_oracle, row.oracle)
        cells = [f"{each:.3f}" for each in returns]
        action = str(row.fixed.index(row.best_fixed))
        name = row.id.removeprefix("spangym/")
        rows.append([name, str(row.chunks), *cells[:2], action, *cells[2:], f"{row.score:.2f}"])
    return markdown([*header, "content oracle", "oracle", "score of the best fixed"], rows)


def tuned() -> str:
    """Results of the tuned agents."""
    header = ["id", "agent", "best pair", "return", "oracle", "share of the gap", "minutes"]
    rows = [
        [
            row["environment"].removeprefix("spangym/"),
            row["agent"],
            f"{row['best_pair']:.3f}",
            f"{row['mean_return_of_a_chunk']:.3f}",
            f"{row['oracle']:.3f}",
            f"{100 * row['share_of_the_way_from_best_pair_to_oracle']:.0f} %",
            f"{row['minutes_a_trial']:.1f}",
        ]
        for row in read("tuned.json")["rows"]
    ]
    return markdown(header, rows, text_columns=2)


def ceiling() -> str:
    """Returns of a chunk of policies that were trained on the returns of all action sequences."""
    header = ["observation", "levels", "number", "best fixed", "content", "policy", "oracle"]
    rows = [
        [
            row["observation"],
            row["levels"],
            str(row["num_levels"]),
            f"{row['best_fixed']:.3f}",
            f"{row['content_oracle']:.3f}",
            f"{fmean(row['policies']):.3f}",
            f"{row['oracle']:.3f}",
            f"{100 * row['share']:.0f} %",
        ]
        for row in read("ceiling-cpu.json")["rows"]
    ]
    return markdown([*header, "share of the gap"], rows, text_columns=2)


def defects() -> str:
    """Effects of the original's defects."""
    rows = [Defect(**row).to_row() for row in read("defects.json")["rows"]]
    return markdown(DEFECT_COLUMNS, rows, text_columns=3)


def bench(name: str, missed: bool = False) -> str:
    """The measured figures of a bench with their goals; those that miss them alone if asked for."""
    rows = [
        [row["name"], figure(row["value"]), "" if row["goal"] is None else f"{row['goal']:g}"]
        for row in read(f"bench-{name}-cpu.json")["rows"]
        if row["value"] is not None and not (missed and row["met"] is not False)
    ]
    return markdown(["figure", "value", "goal"], rows)


def bench_attention() -> str:
    """The main figures of local attention at 4,096 tokens, by window."""
    names = [
        "one pass over proportional cost",
        "one pass over the fused call alone",
        "local path over proportional cost",
        "local path, speed against a loop",
        "local path, training step, speed against a loop",
        "speed against local-attention",
        "peak memory over local-attention's",
    ]
    values = bench_values("attention")
    rows = []
    for window in (256, 128, 64, 32, 16):
        found = [values.get(f"{name}, ctx 4096, window {window}") for name in names]
        rows.append([str(window), *map(figure, found)])
    return markdown(["window", *names], rows)


def bench_layers() -> str:
    """Time of whole layers over that of multi-head attention, by length."""
    values = bench_values("attention")
    columns = [(phase, window) for phase in ("training step", "inference") for window in (64, 256)]
    rows = []
    for kind in ("layer", "causal layer"):
        for tokens in (1024, 2048, 8192, 32768):
            where = f"over multi-head attention's, ctx {tokens}, window"
            found = [values.get(f"pooled {kind}, {phase} {where} {w}") for phase, w in columns]
            if any(each is not None for each in found):
                rows.append([kind, f"{tokens:,}", *map(figure, found)])
    header = ["layer", "tokens", *(f"{phase}, window {window}" for phase, window in columns)]
    return markdown(header, rows)


def bench_values(name: str) -> dict[str, float | None]:
    """Figures of a bench by name."""
    return {row["name"]: row["value"] for row in read(f"bench-{name}-cpu.json")["rows"]}


def figure(value: float | None) -> str:
    """A figure to three digits; nothing for one that was not measured."""
    return "" if value is None else format_value(value)


def bench_decoding() -> str:
    """Decoding after 4,096 tokens, by number of batch elements and cache."""
    values = bench_values("attention")
    names = ["tokens per second", "speed against a full cache", "memory over a full cache's"]
    rows = []
    for batch in (1, 16):
        for cache in (
            "full cache",
            "global path pooled, window 256",
            "global path none, window 256",
        ):
            where = f"{cache}, batch elements {batch}, ctx 4096"
            found = [values.get(f"decoding, {name}, {where}") for name in names]
            rows.append([cache, str(batch), *map(figure, found)])
    return markdown(["cache", "batch elements", *names], rows)


def bench_transformers() -> str:
    """Time of attention and of a prefill under span control, by span and number of tokens."""
    values = bench_values("transformers")
    attention = "attention of SmolLM2-135M, time over the model's own"
    prefill = "prefill of SmolLM2-135M, time over that without control"
    columns = [(attention, 1024), (attention, 4096), (prefill, 1024)]
    rows = []
    for span in (32, 64, 128, 256, 512, 1024, 2048, "full"):
        sizes = [
            f"full span, ctx {tokens}" if span == "full" else f"ctx {tokens}, window {span}"
            for _, tokens in columns
        ]
        found = [
            values.get(f"{name}, {own}") for (name, _), own in zip(columns, sizes, strict=True)
        ]
        rows.append([str(span), *map(figure, found)])
    header = [f"{name.split()[0]}, {tokens:,} tokens" for name, tokens in columns]
    return markdown(["span", *header], rows)


def bench_transformers_decoding() -> str:
    """Decoding under span control, by context, number of sequences and cache."""
    values = bench_values("transformers")
    names = [
        "tokens per second",
        "speed against the model's own cache",
        "MB of memory",
        "memory over the model's own cache",
    ]
    rows = []
    for batch, context in itertools.product((1, 4), (2048, 4096)):
        for label, cache in (
            ("full", "the model's own cache"),
            ('cache="read"', "read, window 256"),
            ('cache="trim"', "trim, window 256"),
        ):
            where = f"{cache}, batch elements {batch}, ctx {context}"
            found = [values.get(f"decoding with SmolLM2-135M, {name}, {where}") for name in names]
            rows.append([label, str(batch), f"{context:,}", *map(figure, found)])
    return markdown(["cache", "sequences", "context", *names], rows)


def pretrained_gain() -> str:
    """What there is to gain in `Pretrained-v0`, from the table that comes with spangym.

    The best fixed span, and that of each content type, are those of the same chunks.
    """
    table = open_shipped(
        make_config("Pretrained-v0", {"backend": "table", "num_levels": 512}), EnvComponents()
    )
    assert table is not None
    pairs = table.arrays["metrics_0"][..., METRICS.index("qk_pairs")]
    excess = table.arrays["terms_0"][..., TERMS.index("excess_loss")]
    share = pairs / full_qk_pairs(table.identity["ctx"], causal=True)
    types = np.array(table.content_types)[table.arrays["content_types"]]
    natural = np.isin(types, ["documentation", "code"])
    groups = {"all": natural | True, "documentation and code": natural, "the others": ~natural}
    rows = []
    for name, chosen in groups.items():
        for cost_coef in (0.1, 0.3, 0.6):
            returns = -excess[chosen] - cost_coef * share[chosen]
            best = returns.mean(0).argmax()
            by_type = [returns[types[chosen] == each] for each in np.unique(types[chosen])]
            told = sum(each.mean(0).max() * len(each) for each in by_type) / len(returns)
            numbers = (returns.mean(0)[best], told, returns.max(1).mean())
            span = str(table.identity["spans"][best])
            gain = f"{numbers[2] - numbers[0]:.3f}"
            cells = (*(f"{each:.3f}" for each in numbers), gain)
            rows.append([name, str(len(returns)), f"{cost_coef:g}", span, *cells])
    header = ["content", "chunks", "cost coefficient", "best fixed span", "its return"]
    return markdown([*header, "given the content type", "oracle", "gain of the oracle"], rows)


def bench_document(*controllers: str) -> str:
    """Cost of reading a document with controllers of a pretrained model, by default all."""
    values = bench_values("document")
    names = ["bits a byte", "share of query-key pairs", "seconds"]
    rows = []
    measured = [each.removeprefix("seconds, ") for each in values if "seconds" in each]
    for controller in controllers or measured:
        bits, pairs, seconds = (values[f"{name}, {controller}"] for name in names)
        rows.append([controller, f"{bits:.3f}", f"{pairs:.3f}", figure(seconds)])
    return markdown(["controller", *names], rows)


def bench_kvpress() -> str:
    """Excess bits of every method that shortens a key-value cache, by the number of kept keys."""
    values = bench_values("kvpress")
    names = [tuple(each.split(", ")[1:]) for each in values]
    sizes = dict.fromkeys(size for _, size in names)
    rows = [
        [method, *(f"{values[f'excess bits a byte, {method}, {size}']:.3f}" for size in sizes)]
        for method in dict.fromkeys(method for method, _ in names)
    ]
    return markdown(["excess bits a byte", *sizes], rows)


def bench_pilot() -> str:
    """Cost of the pilot's models on long inputs."""
    return without_heading(to_markdown([long_inputs_table(read("bench-pilot-cpu.json")["rows"])]))


def stored_table(study: str, environment: str = "", without: str = "(?!)") -> str:
    """A table that ``spangym show --format markdown`` wrote, without rows that match.

    It is the first one, or the one under the name of an environment.
    """
    text = (RESULTS / study / "table.md").read_text("utf-8")
    table = without_heading(text[text.index(environment) :]).partition("\n\n")[0].rstrip()
    lines = table.splitlines()
    return "".join(f"{each}\n" for each in lines if not re.match(rf"\| {without} \|", each))


def aggregates(study: str, without: str = "(?!)") -> str:
    """Aggregates of the scores over all environments of a study, without agents that match."""
    by_agent: dict[str, dict[str, Any]] = {}
    for row in read(f"{study}/summary.json")["aggregates"]:
        by_agent.setdefault(row["group"], {})[row["statistic"]] = row
    statistics = ("iqm", "median", "mean", "optimality gap")

    def cell(row: dict[str, Any]) -> str:
        half = "" if row["low"] is None else f" ± {(row['high'] - row['low']) / 2:.2f}"
        return f"{row['estimate']:.2f}{half}"

    ordered = sorted(by_agent, key=lambda agent: -by_agent[agent]["iqm"]["estimate"])
    rows = [
        [agent, *(cell(by_agent[agent][each]) for each in statistics)]
        for agent in ordered
        if not re.fullmatch(without, agent)
    ]
    return markdown(["agent", "IQM", *statistics[1:]], rows)


def without_heading(text: str) -> str:
    """A Markdown table without the heading above it."""
    return text.partition("\n\n")[2].strip() + "\n"


def stored_value(path: str) -> str:
    """A stored number, formatted as in the tables.

    Args:
        path: ``bench-NAME/FIGURE``, ``baselines/ENVIRONMENT/FIELD``, ``RUN/GROUP/SPLIT/METRIC`` of
            a pilot, or ``RUN/GROUP - BASELINE/SPLIT`` for a paired difference of its errors.

    Raises:
        ValueError: Not exactly one number is stored under the path.
    """
    name, *keys = path.split("/")
    if name.startswith("bench-"):
        (figure,) = keys
        rows = [row for row in read(f"{name}-cpu.json")["rows"] if row["name"] == figure]
        return format_value(_only(path, rows)["value"])
    if name == "baselines":
        environment, field = keys
        rows = [row for row in read("baselines.json")["rows"] if row["id"].endswith(environment)]
        return f"{_only(path, rows)[field]:,}"
    group, split, *metric = keys
    metrics = PILOT_METRICS["speech" if "speech" in name else "text"]
    summary = read(f"{name}/summary.json")
    if metric:
        rows = summary["groups"]
        found = _only(path, [r for r in rows if (r["group"], r["split"]) == (group, split)])
        info = metrics[metric[0]]
        return format_number(info.scale * found[metric[0]], info.decimals or 0)
    agent, _, baseline = group.partition(" - ")
    wanted = (agent, baseline, split)
    rows = summary["differences"]
    rows = [r for r in rows if (r["group"], r["baseline"], r["split"]) == wanted]
    info, row = metrics["error"], _only(path, rows)
    mean, low, high = (info.scale * row[each] for each in ("difference", "low", "high"))
    return mean_ci_cell(mean, low, high, info.decimals or 0, sign=True).text


def _only(path: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} stored results are {path!r}, not one")
    return rows[0]


TABLES: dict[str, Callable[[], str]] = {
    "environments": environments,
    "quickstart": lambda: stored_table(
        "quickstart", "LongRange-v0", without="fixed:[1-8]|threshold|random"
    ),
    "suite": lambda: aggregates("suite", without="fixed:.|threshold"),
    "suite-all": lambda: aggregates("suite"),
    "baselines": baselines,
    "tuned": tuned,
    "ceiling": ceiling,
    "defects": defects,
    "pilot-speech-quick": lambda: stored_table("pilot-speech-quick"),
    "pilot-text-long": lambda: stored_table("pilot-text-long"),
    "bench-attention": bench_attention,
    "bench-attention-missed": lambda: bench("attention", missed=True),
    "bench-layers": bench_layers,
    "bench-decoding": bench_decoding,
    "bench-envs": lambda: bench("envs"),
    "bench-tables": lambda: bench("tables"),
    "bench-agents": lambda: bench("agents"),
    "bench-experiments": lambda: bench("experiments"),
    "bench-transformers": bench_transformers,
    "bench-transformers-decoding": bench_transformers_decoding,
    "bench-document": bench_document,
    "bench-document-short": lambda: bench_document("full span", "span 128", "agent ppo"),
    "bench-kvpress": bench_kvpress,
    "pretrained": lambda: stored_table("pretrained"),
    "pretrained-gain": pretrained_gain,
    "bench-pilot": bench_pilot,
}


def with_tables(text: str) -> str:
    """A page with its tables made from the stored results."""

    def table(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}\n{TABLES[name]()}\n{end}"

    def value(match: re.Match[str]) -> str:
        start, path, end = match.groups()
        return f"{start}{stored_value(path)}{end}"

    return VALUE.sub(value, BLOCK.sub(table, text))


def pages() -> list[Path]:
    """The pages that may hold tables."""
    written = (each for each in DOCS.rglob("*.md") if DOCS / "reference" not in each.parents)
    return [ROOT / "README.md", *sorted(written)]


if __name__ == "__main__":
    for page in pages():
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")
