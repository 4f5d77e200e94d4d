"""A study of everything, small enough to be run in tests."""

from spangym.experiments.pilot.load_pilot_study import normalize_pilot_study, parse_pilot_study
from spangym.experiments.pilot.pilot_study import PilotStudy

TINY = """
name = "tiny"
task = "text"
updates = 12
batch = 3
evaluations = 2
random_span_fraction = 0.34
agent_steps = 96

[model]
num_layers = 2
dims = 16
heads = 2
hidden = 96
win_size = 4
max_span = 12

[text]
ctx = 24
chunks = 2
evaluation_streams = 2

[[variants]]
name = "standard"
attention = "standard"

[[variants]]
name = "standard-4h"
attention = "standard"
heads = 4

[[variants]]
name = "hybrid-sharper-longer"
attention = "hybrid"

[[variants]]
name = "hybrid-sharper-shorter"
attention = "hybrid"
temperature_law = "shorter"

[[variants]]
name = "focus-refiner"
attention = "focus"
agent = { algo = "refiner" }

[[variants]]
name = "predictor"
attention = "integrated"

[[variants]]
name = "learned-span"
attention = "integrated"
soft_span = true
cost_coef = 0.1

[[variants]]
name = "refiner"
attention = "integrated"
agent = { algo = "refiner" }

[[variants]]
name = "dqn-online"
attention = "integrated"
agent = { algo = "dqn", hyperparameters = { learning_starts = 6, train_freq = 2, batch_size = 6 } }
reward = "loss_improvement"
cost_coef = 0.2

[[variants]]
name = "ppo-frozen"
attention = "integrated"
agent = { algo = "ppo", hyperparameters = { n_steps = 8 } }
learns = "environment"
reward = "loss_improvement"
cost_coef = 0.2

[[variants]]
name = "original"
attention = "original"
"""


def tiny_study() -> PilotStudy:
    """The study, resolved."""
    return normalize_pilot_study(parse_pilot_study(TINY, "tiny"))
