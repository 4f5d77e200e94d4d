from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.style import BG

from ..drawing import drawn, plot_data_of, xs
from ..pilot.synthetic import LONGER, SHORTER, VARIANTS
from ..synthetic import make_results


def test_improvement_names_both_and_has_a_line_at_a_half(one: PlotData):
    (panel,) = PLOTS["probability_of_improvement"].panels(one)
    axes = drawn(panel)
    labels = [each.get_text() for each in axes.texts]
    assert labels[0] == "refiner > dqn"
    assert "ppo > best fixed" in labels
    assert xs(axes.lines[0]) == [0.5, 0.5]
    values = [xs(each)[0] for each in axes.lines if len(xs(each)) == 1]
    assert values == one.statistics.probability_of_improvement["probability"].tolist()


def test_many_pairs_take_several_panels():
    data = plot_data_of(
        make_results(learners=[f"agent {number}" for number in range(7)], episodes=4)
    )
    panels = PLOTS["probability_of_improvement"].panels(data)
    assert len(panels) == 3
    assert sum(len(drawn(panel).texts) for panel in panels) == 7 * 6 // 2 + 7


def test_differences_are_from_the_best_fixed_span(one: PlotData):
    (panel,) = PLOTS["differences"].panels(one)
    axes = drawn(panel)
    assert "fixed:6" in axes.get_xlabel()
    table = one.statistics.differences
    table = table[table["baseline"] == "fixed:6"]
    points = [each for each in axes.lines if len(xs(each)) == 1]
    assert [xs(each)[0] for each in points] == table["difference"].tolist()
    hollow = [each.get_markerfacecolor() == BG for each in points]
    assert hollow == (table["outcome"] == "inconclusive").tolist()
    assert 0 < sum(hollow) < len(hollow)


def test_aggregates_have_a_panel_each(one: PlotData):
    panels = PLOTS["aggregates"].panels(one)
    assert panels[0].title == "Interquartile mean"
    table = one.statistics.aggregates
    for panel, statistic in zip(panels, ("iqm", "median", "mean", "optimality gap"), strict=True):
        axes = drawn(panel)
        assert [each.get_text() for each in axes.texts] == [
            *one.results.learners,
            "threshold",
            "fixed:6",
        ]
        here = table[(table["statistic"] == statistic) & (table["group"] == "ppo")].iloc[0]
        bars = [xs(each) for each in axes.lines]
        assert [here["estimate"]] in bars
        assert [here["low"], here["high"]] in bars


def test_temperature_laws_are_hollow_where_seeds_do_not_tell(speech: PlotData):
    (panel,) = PLOTS["temperature_laws"].panels(speech)
    assert panel.title == f"{LONGER} minus {SHORTER}"
    axes = drawn(panel)
    table = speech.statistics.differences
    table = table[table["pairing"] == "temperature law"]
    points = [each for each in axes.lines if len(xs(each)) == 1]
    assert [xs(each)[0] for each in points] == (100 * table["difference"]).tolist()
    assert [each.get_markerfacecolor() == BG for each in points] == (
        table["outcome"] == "inconclusive"
    ).tolist()


def estimates(data: PlotData, metric: str) -> list[float]:
    (task,) = data.results.environments
    return [data.statistics.estimate(task, each, metric, "all").mean for each in VARIANTS]


def test_run_time_starts_at_zero_and_names_the_ratio(speech: PlotData):
    updates, trainings = (drawn(panel) for panel in PLOTS["runtime"].panels(speech))
    assert updates.get_xlim()[0] == trainings.get_xlim()[0] == 0
    ratio = estimates(speech, "time_ratio")[4]
    assert updates.texts[4].get_text() == f"focus, {ratio:.2f} times"
    for axes, metric in ((updates, "milliseconds"), (trainings, "seconds")):
        points = [xs(each)[0] for each in axes.lines if len(xs(each)) == 1]
        assert points == estimates(speech, metric)


def test_differences_of_a_pilot_are_from_plain_attention(speech: PlotData):
    _, unseen = PLOTS["differences"].panels(speech)
    axes = drawn(unseen)
    assert [each.get_text() for each in axes.texts] == [*VARIANTS[1:]]
    table = speech.statistics.differences.query("pairing == 'baseline' and split == 'unseen'")
    points = [xs(each)[0] for each in axes.lines if len(xs(each)) == 1]
    assert points == (100 * table["difference"]).tolist()
