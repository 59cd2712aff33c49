"""Causal attention of texts that lie one after the other in one sequence, without padding.

It is registered with transformers as `PACKED_ATTENTION`. The texts are new (with their bounds), or
go on from KV caches of their own (a `SequenceBatch`). Calls with neither are those of padded texts,
and get transformers' own "sdpa" attention.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lit_hour.model.sequence_cache import SequenceBatch

PACKED_ATTENTION = "packed"
FLASH_DTYPES = (torch.bfloat16, torch.float16)
# Older versions of torch need as many key/value heads as heads.
TORCH_SHARES_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    sequences: SequenceBatch | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend inside each text, in the form that transformers calls.

    On a GPU it is torch's variable-length attention, in bfloat16 or float16. Elsewhere the texts
    are computed one by one, with the result of each text alone.

    Args:
        module: the attention layer.
        query: `(1, heads, tokens, head_dim)`, the tokens of all texts.
        key: `(1, key/value heads, tokens, head_dim)`.
        value: like `key`.
        attention_mask: None for packed texts.
        cu_seq_lens_q: `(texts + 1,)` int32, where each text starts, and the end of the last one.
        max_length_q: tokens of the longest text, or more.
        sequences: KV caches of the texts, which are read further.
        kwargs: as for "sdpa".

    Returns:
        `(1, tokens, heads, head_dim)`, and None for the attention weights.
    """
    if sequences is not None:
        return sequences.attend(module, query, key, value), None
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    dtype = query.dtype  # with autocast, rotary embedding makes it float32 and the values are not
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
    if _has_varlen_kernel(query, dtype):
        packed_query, packed_key, packed_value = (
            states[0].transpose(0, 1).to(dtype) for states in (query, key, value)
        )  # (tokens, heads, head_dim) each
        output: Tensor = varlen_attn(  # type: ignore[assignment]
            packed_query,
            packed_key,
            packed_value,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=kwargs["scaling"],
            window_size=(-1, 0),  # causal
            enable_gqa=True,
        )  # (tokens, heads, head_dim)
        return output[None], None
    return _attend_one_by_one(module, query, key, value, cu_seq_lens_q, **kwargs), None


def _has_varlen_kernel(query: Tensor, dtype: torch.dtype) -> bool:
    """Return whether torch has variable-length attention for the device and the dtype."""
    return query.is_cuda and dtype in FLASH_DTYPES and TORCH_SHARES_HEADS


@torch.compiler.disable  # it would be compiled again for each number of tokens
def _attend_one_by_one(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, starts: Tensor, **kwargs: Any
) -> Tensor:
    """Attend inside each text in turn: `(1, tokens, heads, head_dim)`."""
    lengths = starts.diff().tolist()
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, text_query, text_key, text_value, None, **kwargs)[0]
        for text_query, text_key, text_value in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=1)  # (1, tokens, heads, head_dim)


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, sdpa_mask)
