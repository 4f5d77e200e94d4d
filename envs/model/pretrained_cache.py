"""A pretrained model that reads a document in blocks, with a key-value cache that is trimmed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from spangym.attention import LayerOutput
from spangym.attention.transformers.span_choosers import DEFAULT_SPANS, Span
from spangym.envs.model.block_cache import BlockCache
from spangym.envs.model.block_stack import BlockOutput, BlockStack, PreparedBlock
from spangym.envs.model.chosen_spans import LayerGroup
from spangym.envs.model.pretrained_sizes import group_span_config
from spangym.envs.model.pretrained_stack import PretrainedModelStack
from spangym.envs.state import concat_trees, select_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Largest difference of outputs between reading in blocks and at once, in their scale."""


class PretrainedCacheStack(BlockStack, PretrainedModelStack):
    """A causal model that reads documents block by block; a "layer" is a decision between two.

    Positions stay those in the document; see `BlockStack`.

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
        self.set_blocks(ctx, num_blocks, sinks)
        self._argument = _cache_argument(model)
        self._check_blocks()

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed tokens with the model's input embeddings."""
        return self.model.get_input_embeddings()(tokens)

    def start_caches(self, hidden: Tensor, caches: tuple[Any, ...]) -> tuple[Any, ...]:
        """Read the first block of each document."""
        rows = range(len(hidden))
        first = concat_trees([self._read(hidden[row : row + 1], 0, None)[0] for row in rows])
        return (first, *(None for _ in caches[1:]))

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
        past, cache = (index + 1) * self._block, self._trim(index, prepared.cache, spans)
        first_rows = _first_equal_rows(prepared.tokens, cache.is_held, cache.keys)
        reads = {
            row: self._read(prepared.tokens[row : row + 1], past, select_row(cache, row))
            for row in sorted({*first_rows})
        }
        results = [reads[row] for row in first_rows]
        output = torch.cat([each for _, each, _ in results])
        is_last = index + 1 == self.num_layers
        read = None if is_last else concat_trees([each for each, *_ in results])
        nats = torch.cat([each for *_, each in results])
        return self._make_output(index, prepared, cache.is_held.sum(1), read, output, nats=nats)

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
            keys, values, is_held = (
                each.clone() for each in (cache.keys, cache.values, cache.is_held)
            )
        keys[0, :, :, past:stop], values[0, :, :, past:stop] = new_keys, new_values
        is_held[:, past:stop] = True
        following = tokens[0, past + 1 : stop + 1]
        nats = nn.functional.cross_entropy(
            logits[0, : len(following)].float(), following, reduction="none"
        )
        nats = nn.functional.pad(nats, (0, self._block - len(nats)))
        return BlockCache(keys, values, is_held), seen[0].last_hidden_state, nats[None]

    def target_sizes(self, targets: Tensor) -> Tensor:
        """Bytes of each target."""
        return cast(Tensor, self.token_bytes)[targets.clamp_min(0)]

    def block_nats(self, block_output: BlockOutput, targets: Tensor) -> Tensor:
        """Losses of the next tokens, which were computed with the block."""
        del targets
        return block_output.nats


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
