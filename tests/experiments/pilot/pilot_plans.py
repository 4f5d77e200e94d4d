"""A plan of everything, small enough to be run in tests."""

from spangym.experiments.pilot.load_pilot_study import parse_resolved, resolve
from spangym.experiments.pilot.pilot_study import Plan

TINY = """
name = "tiny"
task = "text"
updates = 12
batch = 3
evaluations = 2
varied = 0.34
agent_steps = 96

[model]
layers = 2
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
label = "standard"
attention = "standard"

[[variants]]
label = "2H"
attention = "standard"
heads = 4

[[variants]]
label = "hybrid longer"
attention = "hybrid"

[[variants]]
label = "hybrid shorter"
attention = "hybrid"
sharpen = false

[[variants]]
label = "focus refiner"
attention = "focus"
agent = { agent = "refiner", options = { storage = "array" } }

[[variants]]
label = "predictor"
attention = "integrated"

[[variants]]
label = "softspan"
attention = "integrated"
soft_span = true
price = 0.1

[[variants]]
label = "refiner"
attention = "integrated"
agent = { agent = "refiner" }

[[variants]]
label = "dqn online"
attention = "integrated"
agent = { agent = "dqn", options = { learning_starts = 6, train_freq = 2, batch_size = 6 } }
reward = "learning"
price = 0.2

[[variants]]
label = "ppo frozen"
attention = "integrated"
agent = { agent = "ppo", options = { n_steps = 8 } }
learns = "environment"
reward = "learning"
price = 0.2

[[variants]]
label = "original"
attention = "original"
"""


def tiny_plan() -> Plan:
    """The plan, resolved."""
    return resolve(parse_resolved(TINY, "tiny"))
