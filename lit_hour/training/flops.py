"""Floating-point operations of a training step: the numerator of the model FLOPs utilization.

Entry points: `step_flops` for one text about one video, `FlopCounter` for the batches of a run.

A dense layer takes 2 operations per weight and token in the forward pass, 2 for the gradient of its
input, and 2 for the gradient of its weights if it is trained. Attention takes 4 per query, key and
channel forward and 8 backward. Causal attention counts half, because the other half is masked.
Recomputation does not count, nor do norms, activations, rotary embeddings, softmax, loss and
optimizer. Logits count only at learned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.utils.flop_counter import FlopCounterMode

from lit_hour.config.model import VisionConfig
from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch, Features, Video, Visual

LLM_PARTS = ("language model's layers", "language model's attention", "output layer")


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
    is_trained["llm"] &= language.lora.rank == 0  # its adapters are too small to count
    projector = dense(
        shapes.num_projected,
        shapes.vision_dim * dim,
        is_trained["projector"],
        needs_input_gradient=False,
    )
    projector += dense(shapes.num_projected, dim**2, is_trained["projector"])
    # The last block of MemAug has queries of the visual tokens only.
    num_blocks = config.model.memaug.num_layers
    num_queries = max(0, num_blocks - 1) * shapes.num_query + min(1, num_blocks) * shapes.num_kept
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
        LLM_PARTS[0]: layers,
        LLM_PARTS[1]: (num_layers - 1) * causal + last_attention,
        LLM_PARTS[2]: dense(shapes.num_labels, dim * vocab_size, is_trained["llm"]),
    }


def dense(
    num_tokens: int, num_weights: int, is_trained: bool, needs_input_gradient: bool = True
) -> float:
    """Return the operations of a linear layer, with the gradients that are needed."""
    return 2.0 * num_tokens * num_weights * (1 + is_trained + needs_input_gradient)


def attention(num_queries: int, num_keys: int, dim: int) -> float:
    """Return the operations of scores and weighted sums, forward and backward."""
    return 12.0 * num_queries * num_keys * dim


class FlopCounter:
    """Counts the operations of batches by `step_flops`, with the vision encoder.

    Tokens of an image count without the crop of its letterbox, and those of a text without its
    padding.
    """

    def __init__(self, config: Config, model: HourLLaVA) -> None:
        self._config, self._vocab_size = config, model.llm.vocab_size
        self._vision_dim = model.vision.dim
        self._tokens_per_frame = model.vision.tokens_per_frame
        self._tokens_per_image = model.vision.tokens_per_image
        self._frozen_encoder_flops = encoder_flops(config.model.vision)
        self._trained_encoder_flops = encoder_flops(config.model.vision, is_trained=True)

    def count(self, batch: Batch, num_language: Tensor, num_labels: Tensor) -> float:
        """Return the operations of the forward and backward pass of a batch.

        Args:
            batch: as the model gets it.
            num_language: `(texts,)`, tokens of each text for the language model.
            num_labels: `(texts,)`, tokens of each text that are learned.
        """
        is_question = batch.question_mask & (batch.input_ids >= 0)  # (texts, tokens)
        is_text = batch.attention_mask & (batch.input_ids != IMAGE_TOKEN_INDEX)  # (texts, tokens)
        counts = torch.stack(
            [is_text.sum(dim=1), is_question.sum(dim=1), num_language, num_labels], dim=1
        ).tolist()  # (texts, 4), in one transfer
        videos = [self._video_shapes(visual) for visual in batch.visuals]
        before = [self._flops(shapes) for shapes in videos]
        total = sum(before) + sum(map(self._encoding_flops, batch.visuals))
        for visual, (text, question, language, labels) in zip(
            batch.visual_of_text, counts, strict=True
        ):
            num_kept = max(0, language - text)
            shapes = replace(
                videos[visual],
                num_query=num_kept + question,
                num_kept=num_kept,
                num_language=language,
                num_labels=labels,
            )
            total += self._flops(shapes) - before[visual]
        return total

    def _flops(self, shapes: Shapes) -> float:
        parts = step_flops(self._config, self._vocab_size, shapes)
        if self._config.training.objective == "answer_words":  # the language model does not run
            parts = {part: number for part, number in parts.items() if part not in LLM_PARTS}
        return sum(parts.values())

    def _video_shapes(self, visual: Visual | None) -> Shapes:
        """Return the shapes of a visual without a text about it; a dummy image has no tokens."""
        num_frames = num_memory_frames = 0 if visual is None else len(visual)
        tokens = self._tokens_per_image
        if isinstance(visual, Video):
            tokens = self._tokens_per_frame
            num_memory_frames = max(num_frames, self._config.model.memaug.min_frames)
        return Shapes(
            vision_dim=self._vision_dim,
            num_projected=num_frames * tokens,
            num_memory=num_memory_frames * (tokens + 1),
            num_query=0,
            num_kept=0,
            num_language=0,
            num_labels=0,
        )

    def _encoding_flops(self, visual: Visual | None) -> float:
        """Return the operations of the vision encoder; a trained one has a backward pass."""
        if visual is None or isinstance(visual, Features):
            return 0.0
        vision, rate = self._config.model.vision, self._config.training.learning_rate.vision
        is_trained = rate > 0 and len(visual) <= vision.max_trainable_frames
        per_image = self._trained_encoder_flops if is_trained else self._frozen_encoder_flops
        return len(visual) * per_image


def encoder_flops(config: VisionConfig, is_trained: bool = False) -> float:
    """Return the operations of the vision encoder for one image, by torch's counter.

    Those of a trained one include the backward pass. The encoder is built on the meta device, where
    nothing is computed.
    """
    with torch.device("meta"), torch.set_grad_enabled(is_trained):
        encoder = VisionEncoder(replace(config, max_trainable_frames=1))
        image = torch.zeros(1, 3, encoder.image_size, encoder.image_size, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            tokens = encoder.encode_images(image)  # (1, tokens, vision_dim)
            if is_trained:
                tokens.sum().backward()
    return float(counter.get_total_flops())
