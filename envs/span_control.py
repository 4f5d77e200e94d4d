"""The Gymnasium face: one lane as a `gymnasium.Env`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..attention import ACTIONS
from .settings import Settings
from .simulator import Simulator


class SpanControlEnv(gym.Env[Any, int | np.integer[Any]]):
    """Decide, layer by layer, how far the queries of live attention layers look.

    ## Description
    A document is cut in chunks of ``ctx`` tokens. Each chunk passes through a stack of live
    `spangym.attention.IntegratedAttention` layers with seeded random weights. Before a layer runs,
    the agent sees the state of its input and sets its attention span; the layer's local output is
    rewarded, and its output is the next layer's input. The decision, its state and its reward are
    those of the tabular Q-learning *Refiner* that the layer was designed with.

    ## Action Space
    ``Discrete(10)``: action ``a`` sets the span scale ``m = p * a / 9``, where ``p`` in (0, 1) is
    the layer's own prediction.

    | Action | Meaning                                                                      |
    |--------|------------------------------------------------------------------------------|
    | 0      | the local path is off                                                        |
    | 1 .. 8 | windows of ``int(win_size * m)`` queries, spans of ``int(max_span * m)`` keys |
    | 9      | all of the predicted span                                                    |

    ## Observation Space
    Mean and population variance, over the tokens, of each dimension of the layer's normalised
    input; ``encoding`` says in which form. A digit says how many of the ten edges
    ``linspace(-1, 1, 10)`` are at most the number.

    | encoding   | space                                  | values                              |
    |------------|----------------------------------------|-------------------------------------|
    | `digits`   | ``MultiDiscrete([11] * 2 * dims)``     | digits of the means, then variances |
    | `box`      | ``Box(-1, 1, (2 * dims,), float32)``   | digits scaled to [-1, 1]            |
    | `features` | ``Box(..., (2 * dims,), float32)``     | the numbers themselves              |
    | `state`    | ``Discrete(9999)``                     | ``hash(tuple(digits)) % 9999``      |

    ``groups=G`` averages neighbouring dimensions to ``G`` groups first; ``layer_index=True`` adds
    the index of the layer at the end.

    ## Rewards
    ``quality``: the coverage of the local output (share of entries above 0.01) minus a tenth of its
    entropy, minus ``price`` times the share of visited keys in one full attention's. With random
    layers it rises with the span almost without exception: the best fixed action is 8 or 9, and
    there is little to learn. It is kept because it is the original's.

    ## Starting State
    A random place in the source's text, the global paths' caches empty.

    ## Episode End
    1. Truncation: after ``chunks`` chunks, that is ``chunks * layers`` steps.

    There is no termination.

    ## Information
    After `reset`: ``source``, the kind of text. After `step` also:

    | key             | value                                                                    |
    |-----------------|--------------------------------------------------------------------------|
    | `chunk`, `layer`| where the decision fell                                                  |
    | `reward_parts`  | ``coverage``, ``entropy`` and ``price``; their sum is the reward         |
    | `scale`         | span scale ``m``                                                         |
    | `window`, `span`| tokens                                                                   |
    | `visited_keys`  | query-key pairs scored, over all passes of iterative focus               |
    | `focus_steps`   | passes that the slowest window took                                      |
    | `milliseconds`  | wall time of the step; only with ``timing=True``                         |

    ## Arguments
    Those of `spangym.envs.Settings`, all optional, by keyword; and ``timing``, which adds the wall
    time of a step to ``info`` (off, since Gymnasium's checker wants equal infos for equal seeds).

    >>> import gymnasium as gym
    >>> env = gym.make("spangym.envs:spangym/SpanControl-v0", encoding="state", chunks=2)
    >>> observation, info = env.reset(seed=7)
    >>> observation, reward, terminated, truncated, info = env.step(9)
    >>> terminated, truncated, info["layer"], info["source"]
    (False, False, 0, 'code')

    ## Vectorized environment
    `spangym.envs.SpanControlVecEnv` runs many lanes for Stable-Baselines3 through the same
    simulator; its lane ``i`` behaves as this environment seeded ``seed + i``. Processes of
    Gymnasium's ``AsyncVectorEnv`` have to be spawned (``context="spawn"``): a fork of a process in
    which PyTorch has run may hang.

    ## Version History
    * v0: Initial version.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(self, *, render_mode: None = None, timing: bool = False, **arguments: Any) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode must be None: nothing is drawn, got {render_mode!r}")
        self.render_mode = render_mode
        self.settings = Settings.from_arguments(arguments)
        self.timing = timing
        self.simulator = Simulator(self.settings, lanes=1)
        self.observation_space = self.simulator.encoding.space
        self.action_space = spaces.Discrete(ACTIONS)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode on a new stream.

        Args:
            seed: Seed of this and all following streams; without it they go on.
            options: Not used.

        Returns:
            The first observation and its info.
        """
        super().reset(seed=seed, options=options)
        observations, infos = self.simulator.reset([self.np_random])
        return observations[0], infos[0]

    def step(self, action: int | np.integer[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Set the span of the coming layer and run it.

        Args:
            action: 0..9.

        Returns:
            Observation, reward, terminated (always False), truncated and info.

        Raises:
            ValueError: The action is none of 0..9.
            RuntimeError: The episode is over.
        """
        step = self.simulator.step(np.array([action]))
        info = step.infos[0]
        if self.timing:
            info["milliseconds"] = self.simulator.milliseconds
        return step.observations[0], float(step.rewards[0]), False, step.truncated, info
