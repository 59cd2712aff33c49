"""The published model's names and layouts -> ours, for comparing with its recorded inputs and outputs."""

import re

from torch import Tensor

NAMES = (
    (r"^model\.vision_resampler\.", "memory."),
    (r"^model\.mm_projector\.", "projector.layers."),
    (r"^model\.image_newline$", "frame_end"),
    (r"^(model\.(?:layers|embed_tokens|norm)|lm_head)\b", r"language.network.\1"),
    (r"\bself_attn\.Wo\b", "self_attention.output"),
    (r"\bcross_attn\.Wo\b", "cross_attention.output"),
    (r"\bcross_attn\.Wq\b", "cross_attention.query"),
    (r"\bnorm1\b", "self_attention_norm"),
    (r"\bnorm2\b", "cross_attention_norm"),
    (r"\bnorm3\b", "feed_forward_norm"),
)


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole published model's weights, or MemAug's alone, under our names."""
    translated = {}
    for name, weight in state.items():
        is_memory = "vision_resampler" in name or not name.startswith(("model.", "lm_head"))
        ours = name
        for pattern, replacement in NAMES:
            ours = re.sub(pattern, replacement, ours) if is_memory or not pattern.startswith(r"\b") else ours
        if is_memory:
            ours = re.sub(r"\blayers\.(\d+)\.mlp\b", r"blocks.\1.feed_forward", re.sub(r"\blayers\.(\d+)\.(?!mlp)", r"blocks.\1.", ours))
        translated |= _split_joined(ours, weight)
    return translated


def _split_joined(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The published attention joins query, key and value in one matrix; ours keeps them apart."""
    if "Wqkv" in name:
        # the output projection is square, so what is beyond the input width is keys and values in equal parts
        dim = WIDTHS[0]
        rest = (len(weight) - dim) // 2
        parts = weight.split([dim, rest, rest])
        return {name.replace("self_attn.Wqkv", f"self_attention.{part}"): rows for part, rows in zip(PARTS, parts, strict=True)}
    if "Wkv" in name:
        keys, values = weight.chunk(2)
        return {
            name.replace("cross_attn.Wkv", "cross_attention.key"): keys,
            name.replace("cross_attn.Wkv", "cross_attention.value"): values,
        }
    return {name: weight}


PARTS = ("query", "key", "value")
WIDTHS = [64]
