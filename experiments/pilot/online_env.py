"""The environment of a model that trains: its layers are updated at the end of each chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.envs import SB3SpanControlVecEnv
from spangym.envs.core import SpanControlCore, StepResult
from spangym.envs.env_config import EnvComponents, EnvConfig
from spangym.envs.model.model_optimizer import TrainingDiverged
from spangym.envs.model.stack import LayerStack
from spangym.envs.rewards import QualityReward, Reward, TaskReward
from spangym.envs.state import Episode, Prepared, State
from spangym.envs.transition import Transition, TransitionModel


class OnlineQualityReward(QualityReward):
    """The original's reward minus the compute cost, with targets for the model's loss."""

    needs_task = True


class LossImprovementReward(TaskReward):
    """Moving average of the loss minus the chunk's loss, in bits a target, minus the compute cost.

    The improvement is paid at the last layer of a chunk, the cost at each layer.
    """

    components = ("loss_improvement", "cost")


ONLINE_REWARDS: dict[str, type[Reward]] = {
    "quality": OnlineQualityReward,
    "loss_improvement": LossImprovementReward,
}
"""Rewards of agents that learn online, by name; each takes ``cost_coef``."""


class TrainableModel(Protocol):
    """Trains the model whose layers an environment runs: see `Trainer`."""

    @property
    def ema_loss(self) -> float | None:
        """Moving average of the loss; None before the first update."""
        ...

    def update_model(self, losses: Tensor, layer_outputs: Sequence[LayerOutput]) -> None:
        """Update the model after a chunk, of the losses of shape (num_envs,) with their graph."""
        ...

    def next_batch_rngs(self) -> list[np.random.Generator]:
        """Return the generators of the next episode's streams."""
        ...


class OnlineTransitionModel(TransitionModel):
    """Runs chunks with gradients, and updates the model after each."""

    def __init__(
        self, config: EnvConfig, stack: LayerStack, reward: Reward, trainable_model: TrainableModel
    ) -> None:
        super().__init__(config, stack, reward)
        self._trainable_model = trainable_model
        # The model is updated once for all environments.
        self._is_batched = True
        self._layer_outputs: list[LayerOutput] = []

    def start_chunk(self, episode: Episode, state: State, chunk: int) -> State:
        """Return the state at the start of a chunk, with the loss that it is compared with."""
        assert episode.targets is not None
        self._layer_outputs = []
        ema_loss = self._trainable_model.ema_loss
        with torch.enable_grad():
            hidden = self.stack.embed(episode.content[:, chunk])
        return replace(
            state,
            hidden=hidden,
            targets=episode.targets[:, chunk],
            full_span_loss=None if ema_loss is None else hidden.new_full((len(hidden),), ema_loss),
        )

    def _weights_version(self, index: int) -> int | None:
        """Return None, to share nothing: the whole pass needs gradients."""
        del index
        return None

    def _run_layer(
        self, prepared: Prepared, spans: Tensor | None, index: int, return_stats: bool
    ) -> LayerOutput:
        """Run a layer, and keep its output until the end of the chunk."""
        layer_output = super()._run_layer(prepared, spans, index, return_stats)
        if not layer_output.output.isfinite().all():
            raise TrainingDiverged(f"the output of layer {index} was not finite")
        self._layer_outputs.append(layer_output)
        return layer_output

    def step(self, state: State, index: int, actions: Tensor) -> Transition:
        """Run a layer; after the last one, update the model."""
        with torch.enable_grad():
            transition = super().step(state, index, actions)
        prev_features = tuple(
            None if each is None else each.detach() for each in transition.state.prev_features
        )
        return transition._replace(
            state=replace(transition.state, prev_features=prev_features),
            local_output=transition.local_output.detach(),
        )

    def _excess_loss(
        self, state: State, index: int, hidden: Tensor, layer_output: LayerOutput
    ) -> Tensor | None:
        del layer_output
        if index + 1 < self.config.num_layers:
            return None
        assert state.targets is not None
        losses = self.stack.loss_bits(hidden, state.targets)
        self._trainable_model.update_model(losses, self._layer_outputs)
        losses = losses.detach()
        return losses - (losses.mean() if state.full_span_loss is None else state.full_span_loss)


class OnlineSpanControlCore(SpanControlCore):
    """A core whose layers are updated at the end of each chunk."""

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        components: EnvComponents,
        trainable_model: TrainableModel,
    ) -> None:
        super().__init__(config, num_envs, components)
        self._transition_model = OnlineTransitionModel(
            config, self.stack, self.reward, trainable_model
        )
        # A graph cannot be stored: checkpoints hold the start of the chunk, and its actions.
        self._chunk_start_state: State | None = None
        self._chunk_actions: list[NDArray[Any]] = []

    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Start an episode: a new stream in every environment."""
        observations, infos = super().reset(generators)
        self._chunk_start_state, self._chunk_actions = self._state, []
        return observations, infos

    def step(self, actions: NDArray[np.integer[Any]]) -> StepResult:
        """Set the span of the next layer in every environment, and run the layer."""
        result = super().step(actions)
        self._chunk_actions.append(actions)
        if self.layer == 0:
            self._chunk_start_state, self._chunk_actions = self._state, []
        return result

    def fork(self) -> SpanControlCore:
        """Raise a RuntimeError: every step trains the model."""
        raise RuntimeError("the environment of a model that trains cannot fork: every step trains")

    def state_dict(self) -> dict[str, Any]:
        """Return the state at the start of the chunk, and the actions since."""
        saved = self.step_count, self._state, self._local_output
        start = self._chunk_start_state
        self.step_count -= len(self._chunk_actions)
        self._state = None if start is None else replace(start, hidden=start.hidden.detach())
        self._local_output = None
        try:
            actions = [each.copy() for each in self._chunk_actions]
            return {**super().state_dict(), "chunk_actions": actions}
        finally:
            self.step_count, self._state, self._local_output = saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`: run the chunk again up to its last action."""
        super().load_state_dict(state_dict)
        if self.episode is None or self._state is None:
            return
        full_span_loss = self._state.full_span_loss
        start_state = self.transition_model.start_chunk(
            self.episode, self._state, self.step_count // self.config.num_layers
        )
        self._state = self._chunk_start_state = replace(start_state, full_span_loss=full_span_loss)
        self._chunk_actions = []
        for actions in state_dict["chunk_actions"]:
            self.step(actions)


class OnlineVecEnv(SB3SpanControlVecEnv):
    """Stable-Baselines3 interface to a model that trains; the streams are those of the training."""

    def __init__(
        self,
        config: EnvConfig,
        n_envs: int,
        components: EnvComponents,
        trainable_model: TrainableModel,
    ) -> None:
        self._trainable_model = trainable_model
        super().__init__(config, n_envs, components)

    def _make_core(
        self, config: EnvConfig, n_envs: int, components: EnvComponents
    ) -> SpanControlCore:
        return OnlineSpanControlCore(config, n_envs, components, self._trainable_model)

    def _reset_all(self) -> NDArray[Any]:
        self._generators = self._trainable_model.next_batch_rngs()
        return super()._reset_all()
