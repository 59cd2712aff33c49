"""The last layer of the language model, whose FFN is computed only where a token is learned."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer


class LastDecoderLayer(Qwen2DecoderLayer):
    """A decoder layer of Qwen2 that can return some tokens only.

    In the last layer nothing but the logits depends on a token's output, and few tokens of a
    conversation have a label: with `predicting` the FFN is computed for those that predict one.
    """

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, predicting: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Compute the layer.

        Args:
            hidden_states: `(texts, tokens, dim)`.
            predicting: `(predicting,)`, ascending indices of tokens in `texts * tokens`; None for
                all tokens.
            kwargs: of `Qwen2DecoderLayer.forward`.

        Returns:
            `(texts, tokens, dim)`, or `(predicting, dim)`.
        """
        if predicting is None:
            return super().forward(hidden_states, **kwargs)
        normed = self.input_layernorm(hidden_states)  # (texts, tokens, dim)
        attended, _ = self.self_attn(hidden_states=normed, **kwargs)  # (texts, tokens, dim)
        hidden = (hidden_states + attended).flatten(0, 1)  # (texts * tokens, dim)
        hidden = hidden.index_select(0, predicting)  # (predicting, dim)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def replace_last_layer(layers: nn.ModuleList) -> None:
    """Let the last decoder layer be a `LastDecoderLayer` with the same weights, in place.

    Its class is set, because a new layer would draw random weights that a seeded run does not draw.
    """
    layers[-1].__class__ = LastDecoderLayer
