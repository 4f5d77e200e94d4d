"""The environment in which a model learns while an agent decides its spans.

It is `spangym.envs.SB3SpanControlVecEnv` on the model's layers, which are updated at the end of each
chunk: whatever learns there learns here, too.
"""

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
from spangym.envs.model.stack import LayerStack
from spangym.envs.observations import Encoding
from spangym.envs.rewards import QualityReward, Reward, TaskReward
from spangym.envs.state import Episode, State
from spangym.envs.transition import Transition, TransitionModel
from spangym.experiments.pilot.model_optimizer import TrainingDiverged


class OnlineQualityReward(QualityReward):
    """The original's reward, minus the price, where there is a task to be learned."""

    needs_task = True


class LossImprovementReward(TaskReward):
    """By how many bits a target the loss is below that of the last updates, minus the price.

    It arrives with the chunk's last layer, the price at each layer.
    """

    components = ("loss_improvement", "cost")


ONLINE_REWARDS: dict[str, type[Reward]] = {
    "quality": OnlineQualityReward,
    "loss_improvement": LossImprovementReward,
}
"""Rewards of agents that learn online, by name; each is made with its price."""


class TrainableModel(Protocol):
    """Whose layers an environment runs."""

    def update_model(self, losses: Tensor, layer_outputs: Sequence[LayerOutput]) -> None:
        """Update the model at the end of a chunk.

        Args:
            losses: In bits a target, shape (num_envs,), with their gradient.
            layer_outputs: What each layer did.
        """
        ...

    @property
    def ema_loss(self) -> float | None:
        """Mean loss of the last updates; None before the first."""
        ...

    def next_batch_rngs(self) -> list[np.random.Generator]:
        """Do what is to be done between two episodes, then say what the next one is drawn from."""
        ...


class OnlineTransitionModel(TransitionModel):
    """Runs chunks with their gradient, and has the model learn at the end of each.

    Args:
        config: What to run.
        stack: The live layers.
        reward: What judges decisions.
        encoding: How they are observed.
        trainable_model: Whose layers they are.
    """

    def __init__(
        self,
        config: EnvConfig,
        stack: LayerStack,
        reward: Reward,
        encoding: Encoding,
        trainable_model: TrainableModel,
    ) -> None:
        super().__init__(config, stack, reward, encoding)
        self._trainable_model = trainable_model
        self._layer_outputs: list[LayerOutput] = []

    def start_chunk(self, episode: Episode, state: State, chunk: int) -> State:
        """The state as a chunk begins: its loss is compared with that of the last updates."""
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

    def run_layer(
        self, state: State, index: int, actions: Tensor, *, return_stats: bool = False
    ) -> LayerOutput:
        """Run a layer under a decision, and keep what it did until the chunk ends."""
        layer_output = super().run_layer(state, index, actions, return_stats=return_stats)
        if not layer_output.output.isfinite().all():
            raise TrainingDiverged(f"layer {index} put out numbers that were not finite")
        self._layer_outputs.append(layer_output)
        return layer_output

    def step(self, state: State, index: int, actions: Tensor) -> Transition:
        """Run a layer under a decision; behind the last one the model learns."""
        with torch.enable_grad():
            transition = super().step(state, index, actions)
        prev_features = tuple(
            None if each is None else each.detach() for each in transition.state.prev_features
        )
        return transition._replace(
            state=replace(transition.state, prev_features=prev_features),
            local_output=transition.local_output.detach(),
        )

    def _excess_loss(self, state: State, index: int, hidden: Tensor) -> Tensor | None:
        if index + 1 < self.config.num_layers:
            return None
        assert state.targets is not None
        losses = self.stack.loss_bits(hidden, state.targets)
        self._trainable_model.update_model(losses, self._layer_outputs)
        losses = losses.detach()
        return losses - (losses.mean() if state.full_span_loss is None else state.full_span_loss)


class OnlineSpanControlCore(SpanControlCore):
    """A simulator whose layers learn at the end of each chunk.

    Args:
        config: What to run.
        n_envs: Sequences of an update.
        components: The stack, the source and the reward.
        trainable_model: Whose layers they are.
    """

    def __init__(
        self,
        config: EnvConfig,
        n_envs: int,
        components: EnvComponents,
        trainable_model: TrainableModel,
    ) -> None:
        super().__init__(config, n_envs, components)
        self.transition_model = OnlineTransitionModel(
            config, self.stack, self.reward, self.encoding, trainable_model
        )
        # What the current chunk began with, and has been decided since.
        self._chunk_start_state: State | None = None
        self._chunk_actions: list[NDArray[Any]] = []

    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Begin an episode: a new stream in every environment."""
        observations, infos = super().reset(generators)
        self._chunk_start_state, self._chunk_actions = self._state, []
        return observations, infos

    def step(self, actions: NDArray[np.integer[Any]]) -> StepResult:
        """Decide the span of the coming layer in every environment, and run it."""
        step = super().step(actions)
        self._chunk_actions.append(actions)
        if self.layer == 0:
            self._chunk_start_state, self._chunk_actions = self._state, []
        return step

    def fork(self) -> SpanControlCore:
        """Not supported: what is tried out here would be learned.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a model that trains cannot be tried out: whatever it reads it learns")

    def state_dict(self) -> dict[str, Any]:
        """All that running has changed: what the chunk began with, and what was decided since."""
        saved = self.step_count, self._state, self._local_output
        self.step_count -= len(self._chunk_actions)
        self._state = None if self._chunk_start_state is None else _detach(self._chunk_start_state)
        self._local_output = None
        try:
            return {
                **super().state_dict(),
                "chunk_actions": [each.copy() for each in self._chunk_actions],
            }
        finally:
            self.step_count, self._state, self._local_output = saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was called; the chunk is run again up to there.

        Raises:
            ValueError: It is of other settings or environments.
        """
        super().load_state_dict(state_dict)
        if self._episode is None or self._state is None:
            return
        full_span_loss = self._state.full_span_loss
        start_state = self.transition_model.start_chunk(
            self._episode, self._state, self.step_count // self.config.num_layers
        )
        self._state = self._chunk_start_state = replace(start_state, full_span_loss=full_span_loss)
        self._chunk_actions = []
        for actions in state_dict["chunk_actions"]:
            self.step(actions)


class OnlineVecEnv(SB3SpanControlVecEnv):
    """The Stable-Baselines3 face of a model that trains; seeds are the training's own.

    Args:
        config: What to run.
        n_envs: Sequences of an update.
        components: The stack, the source and the reward.
        trainable_model: Whose layers they are.
    """

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


def _detach(state: State) -> State:
    return replace(state, hidden=state.hidden.detach())
