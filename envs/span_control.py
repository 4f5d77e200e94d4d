"""The Gymnasium face: one environment as a `gymnasium.Env`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import SpanControlCore
from spangym.envs.env_config import parse_env_kwargs
from spangym.envs.lookahead import action_coverages, lookahead, one_step_rewards, predictor_action
from spangym.envs.rendering.episode_renderer import RENDER_MODES, EpisodeRenderer
from spangym.envs.soft_span import soft_span_loss


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

    With ``control_kv_cache=True`` it is ``MultiDiscrete([10, 2, 2])``: the span, and whether the global path
    computes its keys, and its values, anew (1) or uses the last chunk's again (0). Else the layers'
    refresh predictors decide.

    ## Observation Space
    Mean and population variance, over the tokens, of each dimension of the layer's normalized
    input; ``encoding`` says in which form. A digit says how many of the ten edges
    ``linspace(-1, 1, 10)`` are at most the number.

    | encoding   | space                                  | values                              |
    |------------|----------------------------------------|-------------------------------------|
    | `digits`   | ``MultiDiscrete([11] * 2 * dims)``     | digits of the means, then variances |
    | `box`      | ``Box(-1, 1, (2 * dims,), float32)``   | digits scaled to [-1, 1]            |
    | `features` | ``Box(..., (2 * dims,), float32)``     | the numbers themselves              |
    | `state`    | ``Discrete(9999)``                     | ``hash(tuple(digits)) % 9999``      |

    ``groups=G`` averages neighboring dimensions to ``G`` groups first; ``lags=True`` adds nine lag
    correlations (`spangym.attention.features.autocorrelation_buckets`), ``include_layer_index=True`` the index of
    the layer at the end. With ``observe="previous"`` all this is of the chunk before; where there
    is none, of the first token, which behind a layer that is not causal has seen the others.

    ## Rewards
    Each has the component ``cost``: minus ``cost_coef`` times the share of visited keys in one full
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
    After `reset`: ``content_type``, what the first chunk is. After `step` also:

    | key             | value                                                                    |
    |-----------------|--------------------------------------------------------------------------|
    | `content_type`  | what the chunk is                                                        |
    | `chunk`, `layer`| where the decision fell                                                  |
    | `reward_components` | components of the reward by name; their sum is the reward                     |
    | `span_scale`    | span scale ``m``                                                         |
    | `window`, `span`| tokens                                                                   |
    | `qk_pairs`  | query-key pairs scored, over all passes of iterative focus               |
    | `num_refinement_steps`   | passes that the slowest window took                                      |
    | `output_norm`   | Euclidean norm of the layer's output                                     |
    | `milliseconds`  | wall time of the step; only with ``report_step_time=True``                         |

    With ``control_kv_cache=True`` also ``recomputed_keys`` and ``recomputed_values`` (1 where they were
    computed anew), ``key_staleness`` and ``value_staleness`` (chunks since they were) and
    ``refresh_cost`` (tokens whose keys, and tokens whose values, were projected).

    ## Arguments
    Those of `spangym.envs.EnvConfig`, all optional, by keyword. In place of names, ``dataset`` takes
    a `spangym.envs.Dataset`, ``reward`` a `spangym.envs.Reward`, and ``layers`` a sequence of
    `spangym.attention.IntegratedAttention`, or a `spangym.envs.LayerStack` of them: used as they are, on
    their device, live while they train. Layers take the place of weights; a reward brings its own
    cost coefficient. ``render_mode`` is ``ansi`` or ``rgb_array``. ``report_step_time``
    adds the wall time of a step to ``info`` (off, since Gymnasium's checker wants equal infos for
    equal seeds).

    What random layers are can be chosen; trained ones and layers of one's own are what they are.

    | argument       | value           | random layers                                          |
    |----------------|-----------------|--------------------------------------------------------|
    | `layer`        | `default`       | do what was meant                                      |
    |                | `original`      | are as they were, with all their defects               |
    | `fixes`       | empty           | keep all of them (only with `original`)                |
    |                | `temperature`   | divide local scores by the temperature                 |
    |                | `local_causal`  | let a query see all keys that its window sees          |
    |                | `global_causal` | look to both sides in the global path                  |
    |                | `double_scale`  | scale global scores once                               |
    |                | `cut`           | let a window see its whole interval, up to each query  |
    | `action_scale` | `relative`      | take an action for a share of their predicted span     |
    |                | `absolute`      | take it for a share of the longest span                |

    `spangym.attention.original.layer` says what the defects are. The weights are the same whatever is
    chosen, and so is the unit of the cost, full attention to both sides.

    >>> import gymnasium as gym
    >>> env = gym.make("spangym.envs:spangym/SpanControl-v0", encoding="state", chunks_per_episode=2)
    >>> observation, info = env.reset(seed=7)
    >>> observation, reward, terminated, truncated, info = env.step(9)
    >>> terminated, truncated, info["layer"], info["content_type"]
    (False, False, 0, 'code')

    ## Vectorized environment
    `spangym.envs.SpanControlVectorEnv` (which ``gym.make_vec`` makes) and, for Stable-Baselines3,
    `spangym.envs.SB3SpanControlVecEnv` run many environments through one simulator; environment ``i`` behaves as
    this environment seeded ``seed + i``. Processes of Gymnasium's ``AsyncVectorEnv`` have to be
    spawned (``context="spawn"``): a fork of a process in which PyTorch has run may hang.

    ## Version History
    * v0: Initial version.
    """

    metadata = {"render_modes": [*RENDER_MODES], "render_fps": 4}  # noqa: RUF012  (Gymnasium's own)

    def __init__(
        self, *, render_mode: str | None = None, report_step_time: bool = False, **arguments: Any
    ) -> None:
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(
                f"render_mode must be None, {' or '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        self.config, components = parse_env_kwargs(arguments)
        self.report_step_time = report_step_time
        self.core = SpanControlCore(self.config, 1, components)
        self.observation_space = self.core.encoding.space
        self.action_space = self.core.action_space
        self._rendering = self._new_rendering()

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
        observations, infos = self.core.reset([self.np_random])
        self._rendering = self._new_rendering(infos[0]["content_type"])
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
        step = self.core.step(np.array([action]))
        info = step.infos[0]
        reward = float(step.rewards[0])
        self._rendering = self._rendering.with_step(reward, info)
        if self.report_step_time:
            info["milliseconds"] = self.core.milliseconds
        return step.observations[0], reward, False, step.truncated, info

    def render(self) -> Any:
        """Draw the chunk that was last decided on; see `spangym.envs.rendering.episode_renderer`.

        Returns:
            With ``render_mode="rgb_array"`` a picture, uint8 of shape (height, width, 3); with
            ``"ansi"`` text; None without a mode.
        """
        if self.render_mode is None:
            return None
        return (
            self._rendering.rgb_array() if self.render_mode == "rgb_array" else str(self._rendering)
        )

    def fork(self) -> SpanControlEnv:
        """An environment that goes on from here by itself, on the same live layers."""
        other = copy.copy(self)
        other.core = self.core.fork()
        other._np_random = copy.deepcopy(self._np_random)
        other.action_space = copy.deepcopy(self.action_space)
        return other

    def content_type(self) -> str:
        """What the chunk is that is decided on next: its ``info["content_type"]``.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return self.core.content_types[0]

    def one_step_rewards(self) -> NDArray[np.float32]:
        """The reward of each action for the coming decision, shape (actions,); nothing changes.

        Actions are ordered as by `spangym.envs.lookahead.all_actions`.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return one_step_rewards(self.core)[0]

    def lookahead(self, beam: int = 10) -> NDArray[np.float32]:
        """The best return of each action up to the end of the chunk, shape (actions,).

        See `spangym.envs.lookahead.lookahead`: exact up to two layers from here, a beam beyond.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return lookahead(self.core, beam)[0]

    def action_coverages(self) -> NDArray[np.float32]:
        """The share of full attention's weight within the span that each action would give.

        Returns:
            Shape (actions,), for the coming decision, ordered as by `one_step_rewards`.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return action_coverages(self.core)[0]

    def predictor_action(self) -> np.int64:
        """The span whose scale is nearest to what the coming layer predicts itself.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        return predictor_action(self.core)[0]

    def output_observations(self) -> Any:
        """The local output of the last decision, encoded as an observation.

        Raises:
            RuntimeError: Nothing was decided yet.
        """
        return self.core.output_observations()[0]

    def soft_span_loss(self, scales: Tensor) -> Tensor:
        """The coming chunk's loss in bits a target if spans had a soft edge, differentiable.

        See `spangym.envs.soft_span.soft_span_loss`.

        Args:
            scales: Shares of the longest span, floating of shape (layers,), in [0, 1].

        Returns:
            Shape ().

        Raises:
            ValueError: There is no task, or the scales are not that.
            RuntimeError: No chunk begins here.
        """
        return soft_span_loss(self.core, scales)[0]

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the environment, as tensors and what JSON can hold.

        The layers' weights are not in it: they are the layers' own.
        """
        return {
            **self.core.state_dict(),
            "generators": [self.np_random.bit_generator.state],
            "seed": self.np_random_seed,
            "rendering": self._rendering.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on, to the bit, from where `state_dict` was called.

        Raises:
            ValueError: It is of an environment with other arguments.
        """
        self.core.load_state_dict(state_dict)
        self.np_random.bit_generator.state = state_dict["generators"][0]
        self._np_random_seed = state_dict.get("seed", self._np_random_seed)
        # Of one environment the other faces have states, too, but nothing to draw.
        rendering, drawn = self._new_rendering(), state_dict.get("rendering")
        self._rendering = rendering.from_state(drawn) if drawn else rendering

    def _new_rendering(self, content_type: str = "") -> EpisodeRenderer:
        options = tuple(layer.config for layer in self.core.layers)
        return EpisodeRenderer(self.config, options, content_type)
