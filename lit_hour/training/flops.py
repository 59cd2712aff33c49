"""Floating-point operations of a training step: the numerator of the model FLOPs utilization.

A dense layer takes 2 operations per weight and token in the forward pass, 2 for the gradient of its
input, and 2 for the gradient of its weights if it is trained. Attention takes 4 per query, key and
channel forward and 8 backward. Causal attention counts half, because the other half is masked.
Recomputation does not count, nor do norms, activations, rotary embeddings, softmax, loss and
optimizer. Logits count only at learned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import IGNORE_INDEX, Batch


@dataclass(frozen=True)
class Shapes:
    """Numbers of tokens in each part, for one text about one encoded video.

    Attributes:
        num_projected: tokens of the video without newline tokens.
        num_kept: visual tokens of MemAug's query, `num_query`.
    """

    vision_dim: int
    num_projected: int
    num_memory: int
    num_query: int
    num_kept: int
    num_language: int
    num_labels: int


@torch.no_grad()
def shapes_of(model: HourLLaVA, batch: Batch) -> Shapes:
    """Return the shapes for a batch of one text."""
    repository = model.build_repositories(batch.visuals)[0]
    inputs = model.build_inputs(batch, [repository], [Generator().manual_seed(0)])
    num_text, num_language = int(batch.attention_mask.sum()), inputs.embeddings.shape[1]
    assert len(batch.input_ids) == 1 and not inputs.num_truncated
    num_kept = num_language - (num_text - 1)  # the placeholder is replaced
    return Shapes(
        vision_dim=model.vision.dim,
        num_projected=len(repository.tokens) - repository.num_frames,
        num_memory=len(repository.tokens),
        num_query=num_kept + int((batch.question_mask & (batch.input_ids >= 0)).sum()),
        num_kept=num_kept,
        num_language=num_language,
        num_labels=int((batch.labels != IGNORE_INDEX).sum()),
    )


def step_flops(
    config: Config, vocab_size: int, shapes: Shapes, causal_share: float = 0.5
) -> dict[str, float]:
    """Return the operations of forward and backward, by part.

    Args:
        config: settings of the run.
        vocab_size: rows of the output layer.
        shapes: of the batch.
        causal_share: share of causal attention that counts; 1 for a kernel that computes the masked
            half too.
    """
    language, rates = config.model.llm, config.training.learning_rate
    dim = language.hidden_size
    keys_values = 2 * dim * language.num_key_value_heads * dim // language.num_heads  # weights
    attention_weights = 2 * dim**2 + keys_values
    decoder_layer = attention_weights + 3 * dim * language.intermediate_size
    is_trained = {part: getattr(rates, part) > 0 for part in ("projector", "memaug", "llm")}
    projector = dense(
        shapes.num_projected,
        shapes.vision_dim * dim,
        is_trained["projector"],
        needs_input_gradient=False,
    )
    projector += dense(shapes.num_projected, dim**2, is_trained["projector"])
    # The last block of MemAug has queries of the visual tokens only.
    num_blocks = config.model.memaug.num_layers
    num_queries = (num_blocks - 1) * shapes.num_query + shapes.num_kept
    query_rows = dense(num_queries, 12 * dim**2, is_trained["memaug"])
    query_rows += dense(num_blocks * shapes.num_query, keys_values, is_trained["memaug"])
    memory_rows = dense(num_blocks * shapes.num_memory, keys_values, is_trained["memaug"])
    attentions = attention(num_queries, shapes.num_query + shapes.num_memory, dim)
    # In its last layer only the labels' tokens are computed, and keys and values of all.
    num_layers, is_llm_trained = language.num_layers, is_trained["llm"]
    layers = dense((num_layers - 1) * shapes.num_language, decoder_layer, is_llm_trained)
    layers += dense(shapes.num_language, keys_values, is_llm_trained)
    layers += dense(shapes.num_labels, decoder_layer - keys_values, is_llm_trained)
    causal = causal_share * attention(shapes.num_language, shapes.num_language, dim)
    last_attention = attention(shapes.num_labels, shapes.num_language, dim)
    return {
        "projector": projector,
        "MemAug's layers": query_rows + memory_rows,
        "MemAug's attention": attentions,
        "language model's layers": layers,
        "language model's attention": (num_layers - 1) * causal + last_attention,
        "output layer": dense(shapes.num_labels, dim * vocab_size, is_trained["llm"]),
    }


def dense(
    num_tokens: int, num_weights: int, is_trained: bool, needs_input_gradient: bool = True
) -> float:
    """Return the operations of a linear layer, with the gradients that are needed."""
    return 2.0 * num_tokens * num_weights * (1 + is_trained + needs_input_gradient)


def attention(num_queries: int, num_keys: int, dim: int) -> float:
    """Return the operations of scores and weighted sums, forward and backward."""
    return 12.0 * num_queries * num_keys * dim
