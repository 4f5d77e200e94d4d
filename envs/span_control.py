"""The Gymnasium face: one lane as a `gymnasium.Env`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import Simulator
from spangym.envs.env_config import split_arguments
from spangym.envs.lookahead import coverages, lookahead, peek, predicted_actions
from spangym.envs.rendering.episode_renderer import RENDER_MODES, Picture
from spangym.envs.soft_span import soft_bits


class SpanControlEnv(gym.Env[Any, Any]):
    """Decide, layer by layer, how far the queries of live attention layers look.

    ## Description
    A stream is cut in chunks of ``ctx`` tokens. Each chunk passes through a stack of live
    `spangym.attention.IntegratedAttention` layers. Before a layer runs, the agent sees the state of
    its input and sets its attention span; what the layer does is rewarded, and its output is the
    next layer's input. The decision and its state, and in `SpanControl-v0` its reward, are those of
    the tabular Q-learning *Refiner* that the layer was designed with.

    | id               | layers                       | content                       | reward    |
    |------------------|------------------------------|-------------------------------|-----------|
    | `SpanControl-v0` | 2, seeded random weights     | documentation and code        | `quality` |
    | `SpanBudget-v0`  | 2 blocks of a language model | text, digits, repeats         | `task`    |
    | `LongRange-v0`   | 2 blocks trained on it       | facts of just now or long ago | `task`    |
    | `Collapse-v0`    | 2 blocks trained on it       | the nearest of many alike     | `task`    |
    | `Precision-v0`   | 2 blocks trained on it       | entities and their cues       | `task`    |
    | `Hierarchy-v0`   | 2 blocks trained on it       | topics, sections and items    | `task`    |
    | `Sparsity-v0`    | 2 blocks trained on it       | melodies that repeat          | `task`    |

    ## Action Space
    ``Discrete(10)``: action ``a`` sets the span scale, ``m = p * a / 9`` with random layers, where
    ``p`` in (0, 1) is the layer's own prediction, and ``m = a / 9`` with trained ones or
    ``action_scale="absolute"``.

    | Action | Meaning                                                                      |
    |--------|------------------------------------------------------------------------------|
    | 0      | the local path is off                                                        |
    | 1 .. 8 | windows of ``int(win_size * m)`` queries, spans of ``int(max_span * m)`` keys |
    | 9      | all of the span that can be had                                              |

    With ``refresh=True`` it is ``MultiDiscrete([10, 2, 2])``: the span, and whether the global path
    computes its keys, and its values, anew (1) or uses the last chunk's again (0). Else the layers'
    refresh predictors decide.

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

    ``groups=G`` averages neighbouring dimensions to ``G`` groups first; ``lags=True`` adds nine lag
    correlations (`spangym.attention.features.lag_correlations`), ``layer_index=True`` the index of
    the layer at the end. With ``observe="previous"`` all this is of the chunk before; where there
    is none, of the first token, which behind a layer that is not causal has seen the others.

    ## Rewards
    Each has the part ``price``: minus ``price`` times the share of visited keys in one full
    attention's, divided by the number of layers.

    * ``quality``: the coverage of the local output (share of entries above 0.01) minus a tenth of
      its entropy. With random layers it rises with the span almost without exception: the best
      fixed action is 8 or 9, and there is little to learn. It is kept because it is the original's.
    * ``attention``: the share of full attention's weight that lies within the span, minus a tenth
      of the entropy of the attention weights. With ``layer="original"`` only those keys of the span
      count that the layer lets a query see.
    * ``task``: minus the excess of the chunk's loss over that at full span, in bits a target; it
      arrives with the chunk's last layer.

    ## Starting State
    A new stream, in texts from a random place, the global paths' caches empty.

    ## Episode End
    1. Truncation: after ``chunks`` chunks, that is ``chunks * layers`` steps.

    There is no termination.

    ## Information
    After `reset`: ``source``, what the first chunk is. After `step` also:

    | key             | value                                                                    |
    |-----------------|--------------------------------------------------------------------------|
    | `source`        | what the chunk is                                                        |
    | `chunk`, `layer`| where the decision fell                                                  |
    | `reward_parts`  | parts of the reward by name; their sum is the reward                     |
    | `scale`         | span scale ``m``                                                         |
    | `window`, `span`| tokens                                                                   |
    | `visited_keys`  | query-key pairs scored, over all passes of iterative focus               |
    | `focus_steps`   | passes that the slowest window took                                      |
    | `output_norm`   | Euclidean norm of the layer's output                                     |
    | `milliseconds`  | wall time of the step; only with ``timing=True``                         |

    With ``refresh=True`` also ``refreshed_keys`` and ``refreshed_values`` (1 where they were
    computed anew), ``key_staleness`` and ``value_staleness`` (chunks since they were) and
    ``refresh_cost`` (tokens whose keys, and tokens whose values, were projected).

    ## Arguments
    Those of `spangym.envs.Settings`, all optional, by keyword. In place of names, ``source`` takes
    a `spangym.envs.Source`, ``reward`` a `spangym.envs.Reward`, and ``layers`` a sequence of
    `spangym.attention.IntegratedAttention`, or a `spangym.envs.Stack` of them: used as they are, on
    their device, live while they train. Layers take the place of weights; a reward brings its own
    price. ``render_mode`` is ``ansi`` or ``rgb_array``. ``timing``
    adds the wall time of a step to ``info`` (off, since Gymnasium's checker wants equal infos for
    equal seeds).

    What random layers are can be chosen; trained ones and layers of one's own are what they are.

    | argument       | value           | random layers                                          |
    |----------------|-----------------|--------------------------------------------------------|
    | `layer`        | `default`       | do what was meant                                      |
    |                | `original`      | are as they were, with all their defects               |
    | `mended`       | empty           | keep all of them (only with `original`)                |
    |                | `temperature`   | divide local scores by the temperature                 |
    |                | `local_causal`  | let a query see all keys that its window sees          |
    |                | `global_causal` | look to both sides in the global path                  |
    |                | `double_scale`  | scale global scores once                               |
    |                | `cut`           | let a window see its whole interval, up to each query  |
    | `action_scale` | `relative`      | take an action for a share of their predicted span     |
    |                | `absolute`      | take it for a share of the longest span                |

    `spangym.attention.original.layer` says what the defects are. The weights are the same whatever is
    chosen, and so is the unit of the price, full attention to both sides.

    >>> import gymnasium as gym
    >>> env = gym.make("spangym.envs:spangym/SpanControl-v0", encoding="state", chunks=2)
    >>> observation, info = env.reset(seed=7)
    >>> observation, reward, terminated, truncated, info = env.step(9)
    >>> terminated, truncated, info["layer"], info["source"]
    (False, False, 0, 'code')

    ## Vectorized environment
    `spangym.envs.SpanControlVectorEnv` (which ``gym.make_vec`` makes) and, for Stable-Baselines3,
    `spangym.envs.SpanControlVecEnv` run many lanes through one simulator; lane ``i`` behaves as
    this environment seeded ``seed + i``. Processes of Gymnasium's ``AsyncVectorEnv`` have to be
    spawned (``context="spawn"``): a fork of a process in which PyTorch has run may hang.

    ## Version History
    * v0: Initial version.
    """

    metadata = {"render_modes": [*RENDER_MODES], "render_fps": 4}  # noqa: RUF012  (Gymnasium's own)

    def __init__(
        self, *, render_mode: str | None = None, timing: bool = False, **arguments: Any
    ) -> None:
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(
                f"render_mode must be None, {' or '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        self.settings, parts = split_arguments(arguments)
        self.timing = timing
        self.simulator = Simulator(self.settings, 1, parts)
        self.observation_space = self.simulator.encoding.space
        self.action_space = self.simulator.action_space
        self._picture = self._blank()

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
        self._picture = self._blank(infos[0]["source"])
        return observations[0], infos[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Set the span of the coming layer and run it.

        Args:
            action: 0..9; with ``refresh`` three integers.

        Returns:
            Observation, reward, terminated (always False), truncated and info.

        Raises:
            ValueError: The action is not in the action space.
            RuntimeError: The episode is over.
        """
        step = self.simulator.step(np.array([action]))
        info = step.infos[0]
        reward = float(step.rewards[0])
        self._picture = self._picture.after(reward, info)
        if self.timing:
            info["milliseconds"] = self.simulator.milliseconds
        return step.observations[0], reward, False, step.truncated, info

    def render(self) -> Any:
        """Draw the chunk that was last decided on; see `spangym.envs.rendering.episode_renderer`.

        Returns:
            With ``render_mode="rgb_array"`` a picture, uint8 of shape (height, width, 3); with
            ``"ansi"`` text; None without a mode.
        """
        if self.render_mode is None:
            return None
        return self._picture.rgb_array() if self.render_mode == "rgb_array" else str(self._picture)

    def fork(self) -> SpanControlEnv:
        """An environment that goes on from here by itself, on the same live layers."""
        other = copy.copy(self)
        other.simulator = self.simulator.fork()
        other._np_random = copy.deepcopy(self._np_random)
        other.action_space = copy.deepcopy(self.action_space)
        return other

    def kinds(self) -> str:
        """What the chunk is that is decided on next: its ``info["source"]``.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return self.simulator.kinds[0]

    def peek(self) -> NDArray[np.float32]:
        """The reward of each action for the coming decision, shape (actions,); nothing changes.

        Actions are ordered as by `spangym.envs.lookahead.choices`.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return peek(self.simulator)[0]

    def lookahead(self, beam: int = 10) -> NDArray[np.float32]:
        """The best return of each action up to the end of the chunk, shape (actions,).

        See `spangym.envs.lookahead.lookahead`: exact up to two layers from here, a beam beyond.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return lookahead(self.simulator, beam)[0]

    def coverages(self) -> NDArray[np.float32]:
        """The share of full attention's weight within the span that each action would give.

        Returns:
            Shape (actions,), for the coming decision, ordered as by `peek`.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return coverages(self.simulator)[0]

    def predicted_actions(self) -> np.int64:
        """The span whose scale is nearest to what the coming layer predicts itself.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return predicted_actions(self.simulator)[0]

    def output_observations(self) -> Any:
        """The local output of the last decision, encoded as an observation.

        Raises:
            RuntimeError: Nothing was decided yet.
        """
        return self.simulator.output_observations()[0]

    def soft_bits(self, scales: Tensor) -> Tensor:
        """The coming chunk's loss in bits a target if spans had a soft edge, differentiable.

        See `spangym.envs.soft_span.soft_bits`.

        Args:
            scales: Shares of the longest span, floating of shape (layers,), in [0, 1].

        Returns:
            Shape ().

        Raises:
            ValueError: There is no task, or the scales are not that.
            RuntimeError: No chunk begins here.
        """
        return soft_bits(self.simulator, scales)[0]

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the environment, as tensors and what JSON can hold.

        The layers' weights are not in it: they are the layers' own.
        """
        return {
            **self.simulator.state_dict(),
            "generators": [self.np_random.bit_generator.state],
            "seed": self.np_random_seed,
            "picture": self._picture.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on, to the bit, from where `state_dict` was called.

        Raises:
            ValueError: It is of an environment with other arguments.
        """
        self.simulator.load_state_dict(state_dict)
        self.np_random.bit_generator.state = state_dict["generators"][0]
        self._np_random_seed = state_dict.get("seed", self._np_random_seed)
        # Of one lane the other faces have states, too, but nothing to draw.
        picture, drawn = self._blank(), state_dict.get("picture")
        self._picture = picture.restored(drawn) if drawn else picture

    def _blank(self, source: str = "") -> Picture:
        options = tuple(layer.options for layer in self.simulator.layers)
        return Picture(self.settings, options, source)
