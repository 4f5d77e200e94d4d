"""The Gymnasium interface: one environment as a `gymnasium.Env`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from spangym.envs.batched_mixin import BatchedEnvMixin
from spangym.envs.env_config import parse_env_kwargs
from spangym.envs.episode_renderer import RENDER_MODES, EpisodeRenderer, check_render_mode
from spangym.envs.make_core import make_core
from spangym.utils.scalars import as_int


class SpanControlEnv(  # pyright: ignore[reportIncompatibleVariableOverride]
    BatchedEnvMixin, gym.Env[Any, Any]
):
    """Set the attention span of live layers, one layer at a time.

    ## Description
    A stream of content is cut into chunks of ``ctx`` tokens. Each chunk passes through a stack of
    live `spangym.attention.IntegratedAttention` layers. Before a layer runs, the agent observes
    features of the layer's input and sets its attention span. The layer's local output is rewarded,
    and its output is the next layer's input. Observation, action and, in `SpanControl-v0`, reward
    are those of the tabular Q-learning *Refiner* that the layer was designed with.

    `spangym.envs.registration.ENVIRONMENTS` holds the ids with their arguments, `DESCRIPTIONS` what
    an agent is to do in each.

    ## Action Space
    ``Discrete(num_actions)``, 10 by default: action ``a`` sets the span scale ``m``. With random
    layers ``m = p * a / (num_actions - 1)``, where ``p`` in (0, 1) is the layer's own prediction;
    with trained layers, or with ``action_scale="absolute"``, ``m = a / (num_actions - 1)``.

    | Action | Meaning                                                                       |
    |--------|-------------------------------------------------------------------------------|
    | 0      | the local path is off                                                         |
    | 1 .. 8 | windows of ``int(win_size * m)`` queries, spans of ``int(max_span * m)`` keys |
    | 9      | the longest span                                                              |

    With a pretrained model (``model``) an action is one of the spans of the argument ``spans``:
    every query sees the keys at smaller distances than the span, and the first ``sinks`` of the
    chunk. With ``blocks`` the model reads a chunk block by block with a key-value cache: before
    each block but the first, the action says how many of the last tokens stay in it; the rest is
    gone. ``span`` is then the number of tokens held, ``qk_pairs`` counts the pairs with them, the
    observation is of the last block's embeddings, and ``task`` is the next block's part. So are the
    actions of a checkpoint that reads in blocks, as that of `KVCache-v0`.

    With ``control_kv_cache=True`` it is ``MultiDiscrete([num_actions, 2, 2])``: the span, and
    whether the global path recomputes its keys, and its values (1), or reuses those of the previous
    chunk (0).

    ## Observation Space
    Mean and population variance, over the tokens, of each dimension of the layer's normalized
    input. A digit is the number of the ten edges ``linspace(-1, 1, 10)`` that are at most the
    value.

    | encoding   | space                                | values                              |
    |------------|--------------------------------------|-------------------------------------|
    | `digits`   | ``MultiDiscrete([11] * 2 * dims)``   | digits of the means, then variances |
    | `box`      | ``Box(-1, 1, (2 * dims,), float32)`` | digits scaled to [-1, 1]            |
    | `features` | ``Box(..., (2 * dims,), float32)``   | means and variances                 |
    | `state`    | ``Discrete(9999)``                   | ``hash(tuple(digits)) % 9999``      |

    ``num_states`` is 10,000 by default; state ids are taken modulo ``num_states - 1``.

    ``pool_groups=G`` first averages neighboring dimensions to ``G`` groups;
    ``autocorrelation=True`` adds nine lag correlations
    (`spangym.attention.features.autocorrelation_buckets`), ``include_layer_index=True`` adds the
    index of the layer at the end, and to a state id ``num_states - 1`` times the index, so that
    each layer has its own ids. ``include_cost_coef=True`` adds the episode's ``cost_coef``, scaled
    to ``(c - 1) / (c + 1)`` in [-1, 1), as one more feature before it, of which ``digits``,
    ``box`` and ``state`` take the digit. With ``observation_time="previous"`` the features are
    those of the previous chunk, and of the first token where there is none (behind a layer that is
    not causal, that token depends on the others).

    With a checkpoint that reads in blocks the share of the last block's attention that went beyond
    each cut follows the features, one number for each span but ``full``, and with
    ``include_cache_size=True`` the share of the document's tokens that the cache holds.

    ## Rewards
    Every reward has the component ``cost``: minus ``cost_coef`` times the share of query-key pairs
    in one full attention's, divided by the number of layers. With two numbers, the lowest and the
    highest, each episode draws its own ``cost_coef``, uniformly in its logarithm.

    * ``quality``: coverage of the local output (share of entries above 0.01) minus 0.1 times its
      entropy. It is the original's reward. With random layers it hardly changes beyond short
      spans, so there is little to learn; with original layers (``layer_variant="original"``) and
      absolute actions it is highest at a span between the shortest and the longest.
    * ``attention``: the share of full attention's weight within the span, minus 0.1 times the
      entropy of the attention weights. Of an original layer only the keys count that its truncation
      leaves.
    * ``task``: minus the excess of the chunk's loss over that at full span, in bits a target, at
      the chunk's last layer; 0 at the other layers. With ``blocks`` it is the part of the block
      that is read after each decision. With a pretrained model it is in bits a byte.
    * ``fidelity``: minus (1 - cosine) of the chunk's final outputs and those at full span, mean
      over the tokens, at the chunk's last layer; 0 at the other layers.

    The weights of ``quality`` and ``attention`` are arguments:
    ``reward_kwargs={"coverage_weight": 1.0, "entropy_weight": 0.1}``.

    ## Starting State
    A new stream from the seeded generator; texts start at a random position. The caches are empty.
    With ``num_levels=N`` each chunk is one of ``N`` fixed ones, drawn with equal probability, as in
    Procgen; ``start_level`` is the number of the first.

    ## Episode End
    1. Truncation: after ``chunks_per_episode`` chunks, that is ``chunks_per_episode * num_layers``
    steps.

    There is no termination.

    ## Information
    `reset` returns ``content_type``, with ``num_levels`` ``level`` of the first chunk, and
    ``cost_coef`` of the episode if it is drawn or observed. `step` returns:

    | key                    | value                                                    |
    |------------------------|----------------------------------------------------------|
    | `content_type`         | content type of the chunk                                |
    | `level`                | number of the chunk's level; with ``num_levels``         |
    | `cost_coef`            | cost coefficient of the episode, if drawn or observed    |
    | `chunk`, `layer`       | indices of the chunk and of the layer that ran           |
    | `reward_components`    | components of the reward by name; their sum is the reward |
    | `span_scale`           | span scale ``m``                                         |
    | `window`, `span`       | in tokens; span 0 where the local path is off            |
    | `qk_pairs`             | query-key pairs scored, over all refinement passes       |
    | `num_refinement_steps` | refinement passes of the slowest window                  |
    | `output_norm`          | Euclidean norm of the layer's output                     |
    | `milliseconds`         | wall time of the step; with ``report_step_time=True``    |

    With ``control_kv_cache=True`` also ``recomputed_keys`` and ``recomputed_values`` (0 or 1),
    ``key_staleness`` and ``value_staleness`` (chunks since the last recomputation) and
    ``recompute_cost`` (tokens whose keys, plus tokens whose values, were projected).

    ## Arguments
    All fields of `spangym.envs.EnvConfig`, by keyword, and:

    * ``render_mode``: None (default), ``"ansi"`` or ``"rgb_array"``.
    * ``max_episode_steps``, which Gymnasium takes: steps after which an episode is truncated early.
    * ``report_step_time``: whether ``info`` holds the wall time of a step. Off by default, because
      Gymnasium's checker expects equal infos for equal seeds.
    * ``dataset``, ``reward``: a name, ``module:Class`` with arguments in ``dataset_kwargs`` and
      ``reward_kwargs``, a `spangym.envs.Dataset` or a `spangym.envs.Reward`, which brings its own
      ``cost_coef``.
    * ``layers``: a sequence of `spangym.attention.IntegratedAttention` or of its relatives, or a
      `spangym.envs.LayerStack`, used as they are, on their device, also while they train; they take
      the place of ``checkpoint``; or ``module:function`` that returns them, with arguments in
      ``layers_kwargs``. Refiners in them set ``num_actions`` and ``num_states``.
    * ``model``, ``tokenizer``: a name, or a ``transformers.PreTrainedModel``, used as it is, with
      its tokenizer. Its layers run in ``groups``, which stand for the layers. Environments of
      pretrained models have no layers of this project: they give no coverages and predictions.

    >>> import gymnasium as gym
    >>> env = gym.make("spangym.envs:spangym/SpanControl-v0", encoding="state")
    >>> observation, info = env.reset(seed=7)
    >>> observation, reward, terminated, truncated, info = env.step(9)
    >>> terminated, truncated, info["layer"], info["content_type"]
    (False, False, 0, 'code')

    ## Vectorized environment
    `spangym.envs.SpanControlVectorEnv` (made by ``gym.make_vec``) and
    `spangym.envs.SB3SpanControlVecEnv`, for Stable-Baselines3, run many environments through one
    core. Environment ``i`` behaves as this environment seeded ``seed + i``. Use Gymnasium's
    ``AsyncVectorEnv`` with ``context="spawn"``: a fork of a process in which PyTorch has run may
    deadlock.

    ## Version History
    * v0: Initial version.
    """

    # Wrappers show their environment by this name too.
    __repr__ = gym.Env.__str__

    metadata = {"render_modes": [*RENDER_MODES], "render_fps": 4}  # noqa: RUF012  (Gymnasium's own)

    def __init__(
        self, *, render_mode: str | None = None, report_step_time: bool = False, **kwargs: Any
    ) -> None:
        self.render_mode = check_render_mode(render_mode)
        self.report_step_time = report_step_time
        self.config, components = parse_env_kwargs(kwargs)
        self.core = make_core(self.config, 1, components)
        self.observation_space = self.core.observation_space
        self.action_space = self.core.action_space
        self.renderer = self._new_renderer()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode on a new stream.

        Args:
            seed: Seed of this and all later streams; None continues the random generator.
            options: Not used.

        Returns:
            The first observation and its info.
        """
        super().reset(seed=None if seed is None else as_int("seed", seed), options=options)
        observations, infos = self.core.reset([self.np_random])
        self.renderer = self._new_renderer(infos[0])
        return observations[0], infos[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Set the span of the next layer, and run the layer.

        Args:
            action: ``0..num_actions - 1``; three integers with ``control_kv_cache``.

        Returns:
            Observation, reward, terminated (always False), truncated and info.

        Raises:
            ValueError: The action is not in the action space.
            RuntimeError: No episode is running.
        """
        result = self.core.step(np.array([action]))
        reward, info = float(result.rewards[0]), result.infos[0]
        self.renderer = self.renderer.with_step(reward, info)
        if self.report_step_time:
            info["milliseconds"] = self.core.milliseconds
        return result.observations[0], reward, False, result.truncated, info

    def render(self) -> Any:
        """Draw the current chunk: text, or an image, uint8 (height, width, 3), or None."""
        return None if self.render_mode is None else self.renderer.draw(self.render_mode)

    def state_dict(self) -> dict[str, Any]:
        """See `BatchedEnvMixin.state_dict`."""
        more = {"seed": self.np_random_seed, "rendering": self.renderer.state_dict()}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `BatchedEnvMixin.load_state_dict`."""
        super().load_state_dict(state_dict)
        self._np_random_seed = state_dict.get("seed", self._np_random_seed)
        self.renderer = self._new_renderer()
        # States of the vector interfaces have no rendering.
        if "rendering" in state_dict:
            self.renderer = self.renderer.from_state(state_dict["rendering"])

    def _unbatch(self, values: Any) -> Any:
        return values[0]

    @property
    def _generators(self) -> list[np.random.Generator]:
        return [self.np_random]

    @_generators.setter
    def _generators(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, generators: list[np.random.Generator]
    ) -> None:
        (self._np_random,) = generators

    def _new_renderer(self, info: Mapping[str, Any] = MappingProxyType({})) -> EpisodeRenderer:
        return EpisodeRenderer.of_episode(self.config, self.core.span_configs, info)
