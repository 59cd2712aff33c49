"""A small GGUF file of a Llama with random weights, written by the library `gguf`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lit_hour.text.tokenizer import train_byte_level_tokenizer

NUM_TOKENS = 300
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "rms_norm_eps": 1e-5,
}
THETA = 10_000.0
NAMES = {  # after model.layers.N. and blk.N.
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def make_llama(tied: bool) -> LlamaForCausalLM:
    """Return a Llama with weights so large that each of them matters."""
    torch.manual_seed(0)
    rope: Any = {"rope_type": "default", "rope_theta": THETA}
    config = LlamaConfig(
        vocab_size=NUM_TOKENS, rope_parameters=rope, tie_word_embeddings=tied, **SIZES
    )
    llama = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in llama.parameters():
            weight.normal_(std=0.3 if weight.dim() > 1 else 1.0)
    return llama


def write_gguf(
    file: Path, llama: LlamaForCausalLM, *, drop: str = "", **changes: Any
) -> dict[str, Tensor]:
    """Write a model with a byte-level tokenizer; return its weights by Hugging Face name.

    Args:
        file: to write.
        llama: the model.
        drop: a tensor that is left out.
        changes: metadata in place of the right ones; None leaves them out.
    """
    import gguf

    writer = gguf.GGUFWriter(str(file), changes.pop("architecture", "llama"))
    metadata: dict[str, Any] = {
        "llama.embedding_length": SIZES["hidden_size"],
        "llama.block_count": SIZES["num_hidden_layers"],
        "llama.attention.head_count": SIZES["num_attention_heads"],
        "llama.attention.head_count_kv": SIZES["num_key_value_heads"],
        "llama.feed_forward_length": SIZES["intermediate_size"],
        "llama.attention.layer_norm_rms_epsilon": SIZES["rms_norm_eps"],
        "llama.rope.freq_base": THETA,
        **tokenizer_metadata(),
    } | {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif value is not None:
            writer.add_uint32(name, value)
    weights = {
        name: weight.detach()
        for name, weight in llama.state_dict().items()
        if not (name == "lm_head.weight" and llama.config.tie_word_embeddings)
    }
    for name, weight in weights.items():
        stored = stored_name(name)
        if stored != drop:
            writer.add_tensor(stored, as_stored(name, weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def stored_name(name: str) -> str:
    """Return the name of a weight in a GGUF file."""
    part, _, kind = name.rpartition(".")
    if part in TOP:
        return f"{TOP[part]}.{kind}"
    _, _, layer, inner = part.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def as_stored(name: str, weight: Tensor) -> np.ndarray:
    """Permute the rows of queries and keys as llama.cpp's converter does."""
    heads = {"q_proj": SIZES["num_attention_heads"], "k_proj": SIZES["num_key_value_heads"]}
    for part, num_heads in heads.items():
        if part in name:
            halves = weight.reshape(int(num_heads), 2, -1, weight.shape[1])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
    return weight.numpy()


def tokenizer_metadata() -> dict[str, Any]:
    """Return the metadata of a byte-level BPE without a trained vocabulary."""
    tokenizer = train_byte_level_tokenizer(["the video shows the video"] * 3, NUM_TOKENS)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocab]
    tokens += [f"<|unused_{index}|>" for index in range(NUM_TOKENS - len(tokens))]

    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.chat_template": "{{ messages }}",
    }
