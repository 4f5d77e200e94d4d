"""The work of a study, before it begins."""

from dataclasses import replace

import pytest

from spangym.experiments.runner.workload import MAX_TOTAL_STEPS, Workload, format_bytes
from spangym.experiments.studies.load_study import load_study, normalize_study
from spangym.experiments.studies.study import EvalConfig, Study
from spangym.experiments.trials.estimate_comparison import estimate_comparison
from spangym.experiments.trials.trial import trials_of
from spangym.utils.errors import UserError


def test_numbers_of_steps(tiny: Study):
    study = normalize_study(replace(tiny, evaluation=EvalConfig(episodes=5, regret_episodes=1)))
    work, trials = estimate_comparison(study), trials_of(study)
    assert work.trials == len(trials)
    length = study.environments[0].episode_steps
    assert work.steps == {
        "training steps": sum(each.total_timesteps for each in trials),
        "evaluation steps": 5 * length * len(trials),
        # The regret of the first episode of each trial, and the oracle's decisions.
        "steps with lookahead": (len(trials) + 5) * length,
    }


def test_quickstart():
    work = estimate_comparison(load_study("quickstart"))
    assert (work.trials, work.steps["training steps"]) == (89, 4 * (3 * 2_048 + 10 * 20_480))


def test_memory_grows_with_what_is_held_at_once(tiny: Study):
    def peak(study: Study) -> int:
        return estimate_comparison(study).peak_bytes

    few = peak(tiny)
    many = peak(replace(tiny, evaluation=EvalConfig(episodes=2000, regret_episodes=0)))
    # Content of two chunks, a layer's input and output, float32.
    assert many - few == 1998 * 4 * 16 * (2 + 2 * 8)
    _, dqn = tiny.agents
    buffer = replace(dqn, hyperparameters={"buffer_size": 10**9})
    longer = replace(tiny, agents=(buffer,), total_timesteps=10**9)
    assert peak(longer) >= 4 * 16 * 10**9
    # Only the steps of the training are stored.
    assert peak(replace(longer, total_timesteps=64)) < 2 * few


def test_too_much_work_is_refused_with_the_number():
    Workload(1, {"training steps": MAX_TOTAL_STEPS}, 2**60).check()
    with pytest.raises(UserError, match=r"1,000,000,000,001 steps .* at most 1,000,000,000,000"):
        Workload(1, {"training steps": MAX_TOTAL_STEPS, "evaluation steps": 1}, 0).check()
    with pytest.raises(UserError, match="1,000,001 trials, at most 1,000,000"):
        Workload(10**6 + 1, {}, 0).check()
    with pytest.raises(UserError, match=r"at least 4\.0 GiB, this machine has 2\.0 GiB"):
        Workload(1, {}, 2**32).check(2**31)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (1023, "1,023 bytes"), (2**50, "1,024.0 TiB")]
)
def test_bytes_in_words(number: int, text: str):
    assert format_bytes(number) == text
