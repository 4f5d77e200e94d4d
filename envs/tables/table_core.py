"""The core that looks up what live layers would compute."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import LayerOutput, SpanConfig
from spangym.attention.geometry import full_qk_pairs
from spangym.envs.core import EpisodeCore, SpanControlCore, StepResult
from spangym.envs.env_config import EnvComponents, EnvConfig
from spangym.envs.model.pretrained_sizes import group_span_config, past_pairs
from spangym.envs.model.stack import LayerStack
from spangym.envs.observations import to_observations
from spangym.envs.rewards import RewardContext
from spangym.envs.state import Episode, State
from spangym.envs.tables.identity import identity_hash
from spangym.envs.tables.table_file import open_shipped, request_table
from spangym.envs.tables.tabulate import TERMS
from spangym.envs.transition import METRICS, TransitionModel

_QK_PAIRS = METRICS.index("qk_pairs")
_COVERAGE, _EXCESS_LOSS, _INFIDELITY = map(
    TERMS.index, ("attention_coverage", "excess_loss", "infidelity")
)

_ALL_ROWS = slice(None)

_SearchState = tuple[Tensor, Tensor | None]
"""Rows of the arrays of a layer, and cost coefficients, one per environment."""

_BLOCK_ROWS = 1 << 14
"""Rows that are encoded at once."""


@dataclass(frozen=True)
class _StoredContext(RewardContext):
    """Context of a reward of which only the terms are known."""

    stored_qk_pairs: Tensor = dataclasses.field(default_factory=Tensor)
    stored_terms: tuple[Tensor, ...] = ()

    @property
    def qk_pairs(self) -> Tensor:
        """See `RewardContext`."""
        return self.stored_qk_pairs

    @property
    def output_quality(self) -> tuple[Tensor, Tensor]:
        """See `RewardContext`."""
        return self.stored_terms[0], self.stored_terms[1]

    @property
    def attention_quality(self) -> tuple[Tensor, Tensor]:
        """See `RewardContext`."""
        return self.stored_terms[2], self.stored_terms[3]


class TableCore(EpisodeCore):
    """Environments that look up all numbers in a table; see `EpisodeCore`.

    Numbers, types and infos are bit-equal to those of the live environment on the same levels. What
    a table does not hold is computed by live layers in the same state (`live`).

    Attributes:
        table: The table, with exactly the levels of the environment.
    """

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        components: EnvComponents = EnvComponents(),  # noqa: B008
        max_episode_steps: int | None = None,
    ) -> None:
        super().__init__(config, num_envs, components, max_episode_steps)
        self._make_live = functools.partial(
            SpanControlCore,
            dataclasses.replace(config, backend="live"),
            num_envs,
            components._replace(dataset=self.dataset, reward=self.reward),
            max_episode_steps,
        )
        self._live: SpanControlCore | None = None
        shipped = open_shipped(config, components)
        self.table = shipped or request_table(config, self._live_core, components).load()
        layers = range(config.num_layers)
        self._observations: list[NDArray[Any]] = []
        self._components: list[NDArray[np.float64]] = []
        if not config.has_episode_cost:
            self._observations = [self._encode_all(f"features_{layer}", layer) for layer in layers]
            self._components = [self._reward_components(layer) for layer in layers]
        sums = [each.sum(-1) for each in self._components]
        self._rewards = [each.astype(np.float32) for each in sums]
        self._exact_rewards = [torch.from_numpy(each) for each in sums]
        self._metrics = [self._rows(f"metrics_{layer}") for layer in layers]
        self._output_ids: list[NDArray[Any]] | None = None
        # Row of the arrays of the current layer (level, then prefix), one per environment.
        self._nodes = np.zeros(num_envs, np.int64)
        self._actions: list[NDArray[np.int64]] = []
        # Layer of the last step, rows of the arrays of its results, and cost coefficients.
        self._last_step: tuple[int, NDArray[np.int64], NDArray[np.float32] | None] | None = None

    @property
    def _live_core(self) -> SpanControlCore:
        # Large layers are only made when they are asked for, if a shipped table has the numbers.
        if self._live is None:
            self._live = self._make_live()
        return self._live

    @property
    def stack(self) -> LayerStack:
        """See `EpisodeCore.stack`."""
        return self._live_core.stack

    @property
    def transition_model(self) -> TransitionModel:
        """See `EpisodeCore.transition_model`."""
        return self._live_core.transition_model

    @property
    def device(self) -> torch.device:
        """See `EpisodeCore.device`."""
        return torch.device("cpu") if self._live is None else self._live.device

    @property
    def span_configs(self) -> tuple[SpanConfig, ...]:
        """See `EpisodeCore.span_configs`."""
        if self._live is None and self.config.model:
            # A model by name predicts the next token.
            return (group_span_config(self.config.ctx, causal=True),) * self.config.num_layers
        return super().span_configs

    @property
    def observations(self) -> list[NDArray[Any]]:
        """Observations of all levels by layer, read-only, of shape (levels, A^layer, ...).

        ``A`` is the number of actions; the actions before the layer are the digits, in base ``A``,
        of the second index.

        Raises:
            ValueError: They depend on the cost coefficient of the episode, too.
        """
        self._check_one_cost()
        return [self._by_level(each) for each in self._observations]

    @property
    def rewards(self) -> list[NDArray[np.float32]]:
        """Rewards of all levels by layer, read-only, of shape (levels, A^(layer + 1)).

        The last digit of the second index is the action of the layer.

        Raises:
            ValueError: They depend on the cost coefficient of the episode, too.
        """
        self._check_one_cost()
        return [self._by_level(each) for each in self._rewards]

    @property
    def episode(self) -> Episode | None:
        """See `EpisodeCore.episode`."""
        return None if self._levels is None else self.live().episode

    @property
    def state(self) -> State:
        """See `EpisodeCore.state`; live layers compute it when it is asked for."""
        self._check_running()
        return self.live().state

    @property
    def search_state(self) -> _SearchState:
        """Rows of the arrays of the layer, and cost coefficients; see the base class."""
        self._check_running()
        costs = None if self._cost_coefs is None else torch.from_numpy(self._cost_coefs)
        return torch.from_numpy(self._nodes), costs

    def try_all_actions(self, state: _SearchState, layer: int) -> tuple[_SearchState, Tensor]:
        """See `EpisodeCore.try_all_actions`."""
        return self._try(*self._all_taken(state), layer)

    def try_last_action(self, state: _SearchState, layer: int) -> tuple[_SearchState, Tensor]:
        """See `EpisodeCore.try_last_action`."""
        nodes, costs = state
        number = len(self.all_actions)
        return self._try(nodes * number + number - 1, costs, layer)

    def _try(self, taken: Tensor, costs: Tensor | None, layer: int) -> tuple[_SearchState, Tensor]:
        if costs is None:
            return (taken, None), self._exact_rewards[layer][taken]
        components = self._reward_components(layer, taken.numpy(), costs)
        return (taken, costs), torch.from_numpy(components.sum(-1))

    def coverages(self, state: _SearchState) -> Tensor:
        """See `EpisodeCore.coverages`."""
        terms = self._rows(f"terms_{self.layer}")
        return torch.from_numpy(terms[self._all_taken(state)[0].numpy(), _COVERAGE])

    def _all_taken(self, state: _SearchState) -> _SearchState:
        (nodes, costs), actions = state, torch.from_numpy(self.all_actions)
        taken = (nodes[:, None] * len(actions) + actions).flatten()
        return taken, None if costs is None else costs.repeat_interleave(len(actions))

    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """See `EpisodeCore.reset`."""
        levels = self._draw_levels(generators)
        self._levels, self._cost_coefs = levels, self._draw_cost_coefs(generators)
        names, codes = self.table.content_types, self.table.arrays["content_types"]
        self._content_types = [
            tuple(names[code] for code in row)
            for row in codes[levels - self.table.start_level].tolist()
        ]
        self._nodes = levels[:, 0] - self.table.start_level
        self._actions = []
        if self.step_count != self.episode_length:
            # After a complete episode `output_observations` is still of its last step.
            self._last_step = None
        self.step_count = 0
        return self._observe(), self._chunk_infos(0)

    def step(self, actions: NDArray[np.integer[Any]]) -> StepResult:
        """See `EpisodeCore.step`."""
        self._check_running()
        self._check_actions(actions)
        assert self._levels is not None
        start = time.perf_counter()
        chunk, layer = divmod(self.step_count, self.config.num_layers)
        actions = actions.astype(np.int64)
        self._actions.append(actions)
        taken = self._nodes * self.config.num_actions + actions
        self._last_step = layer, taken, self._cost_coefs
        is_last = layer + 1 == self.config.num_layers
        self._nodes = self._levels[:, chunk + 1] - self.table.start_level if is_last else taken
        self.step_count += 1
        observations = self._observe()
        if self._cost_coefs is None:
            components = self._components[layer].take(taken, 0)
            rewards = self._rewards[layer].take(taken)
        else:
            costs = torch.from_numpy(self._cost_coefs)
            components = self._reward_components(layer, taken, costs)
            rewards = components.sum(-1).astype(np.float32)
        infos = self._step_infos(chunk, layer, components, self._metrics[layer].take(taken, 0))
        self.milliseconds = (time.perf_counter() - start) * 1e3
        return StepResult(observations, rewards, infos, self.step_count == self.episode_length)

    def output_observations(self) -> NDArray[Any]:
        """See `EpisodeCore.output_observations`."""
        if self._last_step is None:
            raise RuntimeError("no step was taken in this episode: call step() first")
        layer, taken, costs = self._last_step
        if self.observation_spec.encoding != "state" or costs is not None:
            return self._encode(self._rows(f"outputs_{layer}").take(taken, 0), layer, costs)
        if self._output_ids is None:
            layers = range(self.config.num_layers)
            self._output_ids = [self._encode_all(f"outputs_{each}", each) for each in layers]
        return self._output_ids[layer].take(taken)

    def live(self) -> SpanControlCore:
        """Return an environment with live layers in the same state, for what no table holds."""
        assert self._levels is not None
        live, played = self._live_core, len(self._actions)
        same = live._levels is self._levels and live.step_count <= self.step_count
        if not same:
            live.start(self._levels, self._cost_coefs)
        for actions in self._actions[live.step_count : played]:
            live.step(actions)
        return live

    def fork(self) -> Self:
        """See `EpisodeCore.fork`."""
        other = super().fork()
        other._live = self._live and self._live.fork()
        other._actions = [*self._actions]
        return other

    def state_dict(self) -> dict[str, Any]:
        """See `EpisodeCore.state_dict`."""
        last = self._last_step
        return {
            "compat_key": self._compat_key(),
            "step_count": self.step_count,
            "levels": self._levels,
            "cost_coefs": self._cost_coefs,
            "content_types": [*map(list, self._content_types)],
            "nodes": self._nodes,
            "actions": [*self._actions],
            "last_step": None if last is None else [*last],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `EpisodeCore.load_state_dict`."""
        self._check_compat(state_dict)
        last = state_dict["last_step"]
        self.step_count = state_dict["step_count"]
        self._load_draws(state_dict)
        self._content_types = [*map(tuple, state_dict["content_types"])]
        self._nodes = state_dict["nodes"].copy()
        self._actions = [each.copy() for each in state_dict["actions"]]
        self._last_step = None
        if last is not None:
            layer, taken, costs = last
            self._last_step = layer, taken.copy(), None if costs is None else costs.copy()

    def _compat_key(self) -> dict[str, Any]:
        return {**super()._compat_key(), "table": identity_hash(self.table.identity)}

    def _check_one_cost(self) -> None:
        if self.config.has_episode_cost:
            raise ValueError(
                "observations and rewards of all levels need one cost coefficient that is not "
                "observed: set cost_coef to a number, and include_cost_coef = false"
            )

    def _by_level(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return a read-only view of rows with a dimension for the levels."""
        view = rows.reshape(self.table.num_levels, -1, *rows.shape[1:])
        view.flags.writeable = False
        return view

    def _rows(self, name: str) -> NDArray[Any]:
        """Return an array with one row for each level and prefix."""
        array = self.table.arrays[name]
        return array.reshape(-1, array.shape[-1])

    def _observe(self) -> NDArray[Any]:
        layer = self.layer
        if self._cost_coefs is None:
            return self._observations[layer].take(self._nodes, 0)
        features = self._rows(f"features_{layer}").take(self._nodes, 0)
        return self._encode(features, layer, self._cost_coefs)

    def _encode_all(self, name: str, layer: int) -> NDArray[Any]:
        """Observations of all levels and prefixes, one row each."""
        rows = self._rows(name)
        parts = [
            self._encode(rows[first : first + _BLOCK_ROWS], layer)
            for first in range(0, len(rows), _BLOCK_ROWS)
        ]
        return np.concatenate(parts)

    def _encode(
        self, features: NDArray[Any], layer: int, cost_coefs: NDArray[np.float32] | None = None
    ) -> NDArray[Any]:
        spec = self.observation_spec
        # Copied: PyTorch warns of read-only arrays.
        chosen = spec.select(torch.from_numpy(features.copy()))
        costs = None if cost_coefs is None else torch.from_numpy(cost_coefs)
        return to_observations(spec, spec.encode(chosen, layer, costs).numpy())

    def _full_qk_pairs(self, layer: int) -> int:
        if self.config.reads_in_blocks:
            return self.config.full_qk_pairs
        if self.config.blocks:
            return past_pairs(self.config.ctx, self.config.blocks, layer)
        return full_qk_pairs(self.config.ctx, self.span_configs[layer].causal)

    def _reward_components(
        self,
        layer: int,
        rows: NDArray[np.int64] | slice = _ALL_ROWS,
        cost_coef: Tensor | None = None,
    ) -> NDArray[np.float64]:
        """Components of the reward, for rows of each level and prefix."""
        if self.reward.needs_layer_output:
            return self._rows(f"components_{layer}")[rows]
        columns = torch.from_numpy(self._rows(f"terms_{layer}")[rows].copy()).unbind(-1)
        pairs = self._rows(f"metrics_{layer}")[rows, _QK_PAIRS].astype(np.int64)
        is_last = layer + 1 == self.config.num_layers
        has_loss = is_last or self.config.blocks > 0
        excess_loss = columns[_EXCESS_LOSS] if self.reward.needs_task and has_loss else None
        infidelity = columns[_INFIDELITY] if self.reward.needs_fidelity and is_last else None
        context = _StoredContext(
            cast(LayerOutput, None),
            layer,
            self.config.num_layers,
            self._full_qk_pairs(layer),
            excess_loss,
            infidelity,
            cost_coef,
            torch.from_numpy(pairs),
            columns,
        )
        return self.reward(context).double().numpy()
