"""A pretrained model that reads a document in blocks, with a key-value cache that is trimmed."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from spangym.attention import LayerCache, LayerOutput
from spangym.attention.layers.local_global import ControllerInput
from spangym.attention.transformers.span_choosers import DEFAULT_SPANS, Span
from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.model.block_cache import BlockCache
from spangym.envs.model.pretrained_sizes import group_span_config, past_pairs
from spangym.envs.model.pretrained_stack import (
    LayerGroup,
    PretrainedModelStack,
    observe_input,
)
from spangym.envs.state import Cache, concat_trees, select_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Largest difference of outputs between reading in blocks and at once, in their scale."""


@dataclass(frozen=True)
class PreparedBlock:
    """The part of a decision's pass that does not depend on the action.

    Attributes:
        tokens: The document, int64 (batch, ctx).
        cache: Keys and values before they are trimmed.
        observed: Layer-normalized embeddings of the last block read, and their features.
    """

    tokens: Tensor
    cache: BlockCache
    observed: ControllerInput


class PretrainedCacheStack(PretrainedModelStack):
    """A causal model that reads documents block by block; a "layer" is a decision between two.

    Before each block but the first, the action says how many of the last tokens stay in the
    key-value cache in addition to the sinks; the rest is gone. Then the block is read. Positions
    stay those in the document.

    Args:
        model: The model, in evaluation mode.
        ctx: Tokens in a document.
        num_blocks: Number of blocks of equal length, at least 2.
        spans: Tokens that each action keeps at most, or ``full``, in ascending order.
        sinks: First tokens of a document that stay.

    Raises:
        ValueError: The model does not predict the next token, or gives other outputs when a
            document is read in blocks.
    """

    # Documents are read one by one.
    is_batch_invariant = True

    def __init__(
        self,
        model: PreTrainedModel,
        ctx: int,
        num_blocks: int,
        *,
        spans: Sequence[Span] = DEFAULT_SPANS,
        sinks: int = 4,
    ) -> None:
        config, dims = group_span_config(ctx, causal=True), model.config.hidden_size
        parts = [LayerGroup([model], dims, config) for _ in range(num_blocks - 1)]
        super().__init__(parts, model, spans)
        self.causal = True
        self._ctx, self._block, self._sinks = ctx, ctx // num_blocks, sinks
        self._argument = _cache_argument(model)
        self._check_blocks()

    def embed(self, content: Tensor) -> Tensor:
        """Return the tokens as they are: a block is embedded when it is read."""
        return content

    def normalize_input(self, index: int, hidden: Tensor) -> Tensor:
        """Normalize the embeddings of the last block that was read before a decision."""
        block = hidden[:, index * self._block : (index + 1) * self._block]
        embedded = self.model.get_input_embeddings()(block)
        return cast(LayerGroup, self.layers[index]).ln_a(embedded)

    def start_caches(self, hidden: Tensor, caches: tuple[Any, ...]) -> tuple[Any, ...]:
        """Read the first block of each document."""
        rows = range(len(hidden))
        first = concat_trees([self._read(hidden[row : row + 1], 0, None)[0] for row in rows])
        return (first, *(None for _ in caches[1:]))

    def carry(self, caches: tuple[Any, ...], index: int, cache: Any) -> tuple[Any, ...]:
        """Give the next decision the keys and values, and forget those of this one."""
        following = [None] * len(caches)
        if index + 1 < len(caches):
            following[index + 1] = cache
        return tuple(following)

    def full_qk_pairs(self, index: int, ctx: int) -> int:
        """Pairs of the queries of the next block and of all tokens before it."""
        return past_pairs(ctx, self.num_layers + 1, index)

    def connect(self, index: int, hidden: Tensor, output: Tensor) -> Tensor:
        """Return the tokens."""
        del index, output
        return hidden

    def prepare_layer(
        self,
        index: int,
        hidden: Tensor,
        *,
        recompute_kv: Tensor | None = None,
        cache: Cache | None = None,
    ) -> PreparedBlock:
        """Compute the features of the last block."""
        del recompute_kv
        local_input = self.normalize_input(index, hidden)
        return PreparedBlock(hidden, cast(BlockCache, cache), observe_input(local_input))

    @torch.no_grad()
    def _check_blocks(self) -> None:
        """Refuse a model that gives other outputs when it reads a document block by block."""
        text, name = self.model.config.get_text_config(), type(self.model).__name__
        window = getattr(text, "sliding_window", None)
        if window and getattr(text, "use_sliding_window", True) and window < self._ctx:
            raise ValueError(f"model {name} has windows of {window} tokens: it needs at least ctx")
        size = (1, self._ctx)
        tokens = torch.arange(5, 5 + self._ctx, device=self.device).view(size) % text.vocab_size
        tokens = tokens[:, : 2 * self._block]
        expected = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        cache, first, _ = self._read(tokens, 0, None)
        found = torch.cat([first, self._read(tokens, self._block, cache)[1]], dim=1)
        scale = float(expected.abs().max())
        if not torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * scale):
            hint = "call its eval() method" if self.model.training else "it keeps more than keys"
            raise ValueError(f"model {name} gives other outputs with a key-value cache: {hint}")

    def _run(self, index: int, prepared: PreparedBlock, spans: Tensor) -> LayerOutput:
        past, cache = (index + 1) * self._block, prepared.cache
        position = torch.arange(self._ctx, device=spans.device)
        stays = (position >= past - spans[:, None]) | (position < self._sinks)
        is_held = cache.is_held & stays
        held = is_held.sum(1)
        first_rows = _first_equal_rows(prepared.tokens, is_held, cache.keys)
        reads = {
            row: self._read(
                prepared.tokens[row : row + 1],
                past,
                _trim(select_row(cache, row), is_held[row : row + 1]),
            )
            for row in sorted({*first_rows})
        }
        results = [reads[row] for row in first_rows]
        output = torch.cat([each for _, each, _ in results])
        is_last = index + 1 == self.num_layers
        read = None if is_last else concat_trees([each for each, *_ in results])
        ones = torch.ones_like(spans)
        return BlockOutput(
            output=output,
            local_input=prepared.observed.local_input,
            local_output=cast(LayerGroup, self.layers[index]).ln_a(output),
            span_scale=held / past,
            window=ones,
            span=held,
            qk_pairs=held * self._block,
            num_refinement_steps=ones,
            obs_features=prepared.observed.obs_features,
            cache=cast(LayerCache, read),
            nats=torch.cat([each for *_, each in results]),
        )

    def _read(
        self, tokens: Tensor, past: int, cache: BlockCache | None
    ) -> tuple[BlockCache, Tensor, Tensor]:
        """Read the block after ``past`` tokens of one document.

        Returns:
            The cache with the block, the block's last hidden states, and the losses of its next
            tokens in nats, shape (1, block); 0 where there is no next token.
        """
        from transformers import DynamicCache

        stop = past + self._block
        # Without the model's configuration no layer drops keys by itself.
        dynamic: Any = DynamicCache()
        if cache is not None:
            held = cache.is_held[0].nonzero()[:, 0]
            for layer, pair in enumerate(zip(cache.keys[0], cache.values[0], strict=True)):
                dynamic.update(*(each[None, :, held] for each in pair), layer)
        positions = torch.arange(past, stop, device=tokens.device)[None]
        seen: list[Any] = []
        hook = self.model.base_model.register_forward_hook(lambda *args: seen.append(args[-1]))
        try:
            arguments = {"position_ids": positions, "use_cache": True, self._argument: dynamic}
            logits = self.model(input_ids=tokens[:, past:stop], **arguments).logits
        finally:
            hook.remove()
        pairs = [
            tuple(each[0, :, -self._block :] for each in (layer.keys, layer.values))
            for layer in dynamic.layers
        ]
        new_keys, new_values = (torch.stack(each) for each in zip(*pairs, strict=True))
        if cache is None:
            size = (1, *new_keys.shape[:2], self._ctx, new_keys.shape[-1])
            keys, values = new_keys.new_zeros(size), new_values.new_zeros(size)
            is_held = torch.zeros(1, self._ctx, dtype=torch.bool, device=tokens.device)
        else:
            keys, values, is_held = (each.clone() for each in vars(cache).values())
        keys[0, :, :, past:stop], values[0, :, :, past:stop] = new_keys, new_values
        is_held[:, past:stop] = True
        following = tokens[0, past + 1 : stop + 1]
        nats = nn.functional.cross_entropy(
            logits[0, : len(following)].float(), following, reduction="none"
        )
        nats = nn.functional.pad(nats, (0, self._block - len(nats)))
        return BlockCache(keys, values, is_held), seen[0].last_hidden_state, nats[None]

    def step_loss(
        self, index: int, layer_output: LayerOutput, hidden: Tensor, targets: Tensor
    ) -> Tensor | None:
        """Return the next block's part of the loss in bits a byte of all decided blocks."""
        del hidden
        start = (index + 1) * self._block
        sizes = cast(Tensor, self.token_bytes)[targets.clamp_min(0)] * (targets != NO_TARGET)
        total = sizes[:, self._block :].sum(1).clamp_min(1)
        is_target = targets[:, start : start + self._block] != NO_TARGET
        nats = cast(BlockOutput, layer_output).nats * is_target
        return nats.sum(1) / total / math.log(2)


@dataclass(frozen=True)
class BlockOutput(LayerOutput):
    """Results of a decision and of the block that is read after it.

    Attributes:
        nats: Losses of the next tokens, shape (batch, block), in nats.
    """

    nats: Tensor = dataclasses.field(default_factory=Tensor)


def _trim(cache: BlockCache, is_held: Tensor) -> BlockCache:
    """Forget all keys and values but those that are held, boolean (batch, ctx)."""
    shown = is_held[:, None, None, :, None]
    return BlockCache(cache.keys * shown, cache.values * shown, is_held)


def _first_equal_rows(*columns: Tensor) -> list[int]:
    """Return for each row the first one that is equal to it in all columns.

    Different actions often hold the same, as long as little was read. A block is read once for all
    of them.
    """
    rows = range(len(columns[0]))

    def first_equal(row: int) -> int:
        return next(
            other
            for other in rows
            if all(torch.equal(column[other], column[row]) for column in columns)
        )

    return [first_equal(row) for row in rows]


def _cache_argument(model: nn.Module) -> str:
    """Name of the cache among the model's arguments, which differs between versions."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"
