"""The last layer of the language model, computed only where a token is learned.

In the last layer nothing but the logits depends on a token's output, and few tokens of a
conversation have a label. Keys and values need all tokens, the rest only those that predict one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2DecoderLayer,
    repeat_kv,
    rotate_half,
)

# Share of the tokens above which causal attention from all of them is not slower: it skips half of
# the scores, and attention from some of them with a mask skips none.
MAX_QUERY_SHARE = 0.5


class Predicting(NamedTuple):
    """The tokens of padded or packed texts that predict a learned token.

    Attributes:
        rows: `(predicting,)`, their ascending indices in `texts * tokens`.
        slots: `(texts, slots)`, the indices of each text in `tokens`, with zeros at the end; None
            to attend from all tokens.
        slot_of_row: `(predicting,)`, indices in `texts * slots`; None without `slots`.
    """

    rows: Tensor
    slots: Tensor | None = None
    slot_of_row: Tensor | None = None

    @classmethod
    def of_padded(cls, is_predicting: Tensor) -> Predicting:
        """Find the predicting tokens of padded texts, `(texts, tokens)` bool."""
        rows = is_predicting.flatten().nonzero()[:, 0]  # (predicting,)
        counts = is_predicting.sum(dim=1)  # (texts,)
        num_slots = max(1, int(counts.max()))
        if num_slots > MAX_QUERY_SHARE * is_predicting.shape[1]:
            return cls(rows)
        order = is_predicting.int().argsort(dim=1, descending=True, stable=True)
        in_use = torch.arange(num_slots, device=rows.device) < counts[:, None]  # (texts, slots)
        slots = order[:, :num_slots].masked_fill(~in_use, 0)  # (texts, slots)
        return cls(rows, slots, in_use.flatten().nonzero()[:, 0])


class LastDecoderLayer(nn.Module):
    """A decoder layer that can return the predicting tokens only; mixed into transformers' layer.

    Its parts are those of Qwen2 and Llama, which have the same names.
    """

    input_layernorm: Any
    self_attn: Any
    post_attention_layernorm: Any
    mlp: Any

    def forward(
        self, hidden_states: Tensor, predicting: Predicting | None = None, **kwargs: Any
    ) -> Tensor:
        """Compute the layer.

        Args:
            hidden_states: `(texts, tokens, dim)`.
            predicting: the tokens to return; None for all.
            kwargs: of the layer of transformers.

        Returns:
            `(texts, tokens, dim)`, or `(predicting, dim)`.
        """
        if predicting is None:
            output: Tensor = super().forward(hidden_states, **kwargs)
            return output
        normed = self.input_layernorm(hidden_states)  # (texts, tokens, dim)
        if predicting.slots is None:
            attended, _ = self.self_attn(hidden_states=normed, **kwargs)  # (texts, tokens, dim)
            attended = attended.flatten(0, 1).index_select(0, predicting.rows)
        else:
            attended = self._attend(normed, predicting, *kwargs["position_embeddings"])
        hidden = hidden_states.flatten(0, 1).index_select(0, predicting.rows) + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden))  # (predicting, dim)

    def _attend(
        self, normed: Tensor, predicting: Predicting, cosine: Tensor, sine: Tensor
    ) -> Tensor:
        """Attend causally from the predicting tokens of padded texts: `(predicting, dim)`.

        Args:
            normed: `(texts, tokens, dim)`.
            predicting: with slots.
            cosine: of the rotary embedding, `(1, tokens, head_dim)`.
            sine: like `cosine`.
        """
        layer, slots = self.self_attn, predicting.slots
        assert slots is not None and predicting.slot_of_row is not None
        num_texts, num_tokens, dim = normed.shape
        index = slots[..., None].expand(-1, -1, dim)  # (texts, slots, dim)
        queries = _split_heads(layer.q_proj(normed.gather(1, index)), layer.head_dim)
        keys = _split_heads(layer.k_proj(normed), layer.head_dim)
        values = _split_heads(layer.v_proj(normed), layer.head_dim)
        queries = _rotate(queries, cosine[0][slots], sine[0][slots])
        keys = _rotate(keys, cosine, sine)
        positions = torch.arange(num_tokens, device=slots.device)  # (tokens,)
        is_past = positions <= slots[:, None, :, None]  # (texts, 1, slots, tokens)
        # With a mask and shared heads, torch has no fused kernel on a GPU.
        keys, values = (
            repeat_kv(states, layer.num_key_value_groups) for states in (keys, values)
        )  # (texts, heads, tokens, head_dim)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=is_past, scale=layer.scaling
        )  # (texts, heads, slots, head_dim)
        attended = attended.transpose(1, 2).reshape(num_texts * slots.shape[1], -1)
        return layer.o_proj(attended.index_select(0, predicting.slot_of_row))  # (predicting, dim)


def _split_heads(states: Tensor, head_dim: int) -> Tensor:
    return states.unflatten(-1, (-1, head_dim)).transpose(1, 2)  # (texts, heads, tokens, head_dim)


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply the rotary embedding `(texts, tokens, head_dim)` as transformers does."""
    return heads * cosine[:, None] + rotate_half(heads) * sine[:, None]


class LastQwen2Layer(LastDecoderLayer, Qwen2DecoderLayer):  # type: ignore[misc]
    """The last layer of Qwen2."""


class LastLlamaLayer(LastDecoderLayer, LlamaDecoderLayer):  # type: ignore[misc]
    """The last layer of Llama."""


LAST_LAYERS = {Qwen2DecoderLayer: LastQwen2Layer, LlamaDecoderLayer: LastLlamaLayer}


def replace_last_layer(layers: nn.ModuleList) -> None:
    """Let the last decoder layer be a `LastDecoderLayer` with the same weights, in place.

    Its class is set, because a new layer would draw random weights that a seeded run does not draw.
    """
    layers[-1].__class__ = LAST_LAYERS[type(layers[-1])]
