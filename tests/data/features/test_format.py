"""The safetensors files of features: precision, layout and corruption."""

import json
import math

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lit_hour.data.features.format import (
    FeatureMetadata,
    StoredTokens,
    encode_tokens,
    parse_safetensors,
    to_safetensors,
)
from lit_hour.errors import ShardError

NUM_FRAMES, NUM_TOKENS, VISION_DIM = 5, 4, 24
BF16, INT8 = (
    FeatureMetadata(precision, NUM_TOKENS, VISION_DIM, {}, "") for precision in ("bf16", "int8")
)


def tokens_of(num_frames: int = NUM_FRAMES) -> Tensor:
    """Return noise with another scale for each token."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-3, 3, num_frames * NUM_TOKENS).view(
        num_frames, NUM_TOKENS, 1
    )  # (frames, tokens, 1)
    return (
        torch.randn(num_frames, NUM_TOKENS, VISION_DIM, generator=generator) * sizes
    )  # (frames, tokens, vision_dim)


def file_of(metadata: FeatureMetadata, tokens: Tensor) -> bytes:
    return b"".join(to_safetensors(encode_tokens(tokens, metadata.precision), metadata))


def read(content: bytes, metadata: FeatureMetadata, num_frames: int = NUM_FRAMES) -> StoredTokens:
    return parse_safetensors(
        memoryview(bytearray(content)), num_frames, metadata, "shard: member a.safetensors"
    )


# Precision


def test_bf16_file_stores_tokens_rounded_to_bf16() -> None:
    tokens = tokens_of()
    assert torch.equal(read(file_of(BF16, tokens), BF16).expand(), tokens.bfloat16())


def test_int8_error_is_at_most_half_a_step_plus_bf16_rounding() -> None:
    tokens = tokens_of()
    stored = read(file_of(INT8, tokens), INT8)
    assert stored.scales is not None
    torch.testing.assert_close(stored.scales, tokens.abs().amax(-1) / 127)
    assert (stored.tokens.abs().amax(-1) == 127).all()
    expanded = stored.expand()
    error = (expanded.float() - tokens).abs()  # (frames, tokens, vision_dim)
    assert expanded.dtype == torch.bfloat16
    assert (error <= stored.scales[..., None] * 0.501 + tokens.abs() * 2**-8).all()
    assert (error > stored.scales[..., None] * 0.4).any()  # the bound is tight


def test_int8_scales_are_per_token() -> None:
    tokens = tokens_of()
    plain = encode_tokens(tokens, "int8")
    tokens[1, 2] = 0
    tokens[3, 1, 7] = 1e6
    stored = encode_tokens(tokens, "int8")
    assert not stored.expand()[1, 2].any()
    others = torch.ones(NUM_FRAMES, NUM_TOKENS, dtype=torch.bool)
    others[1, 2] = others[3, 1] = False
    assert torch.equal(stored.tokens[others], plain.tokens[others])
    assert (stored.tokens[3, 1] != 0).sum() == 1


@pytest.mark.parametrize("metadata", [BF16, INT8], ids=lambda metadata: metadata.precision)
def test_expand_is_the_same_for_chunks_and_selected_frames(metadata: FeatureMetadata) -> None:
    tokens = tokens_of(600)
    stored = encode_tokens(tokens, metadata.precision)
    parts = [stored[start : start + 7].expand() for start in range(0, 600, 7)]
    assert torch.equal(stored.expand(), torch.cat(parts))
    assert torch.equal(stored[[3, 500]].expand(), stored.expand()[[3, 500]])


@pytest.mark.parametrize("metadata", [BF16, INT8], ids=lambda metadata: metadata.precision)
def test_copy_from_chunks_gives_the_same_file(metadata: FeatureMetadata) -> None:
    tokens = tokens_of()
    joined = StoredTokens.empty(NUM_FRAMES, metadata)
    for frames in (slice(0, 3), slice(3, 5)):
        joined[frames].copy_from(encode_tokens(tokens[frames], metadata.precision))
    assert b"".join(to_safetensors(joined, metadata)) == file_of(metadata, tokens)


# Layout


@pytest.mark.parametrize("metadata", [BF16, INT8], ids=lambda metadata: metadata.precision)
def test_safetensors_library_reads_the_file(metadata: FeatureMetadata) -> None:
    content = file_of(metadata, tokens_of())
    theirs, ours = safetensors.torch.load(content), read(content, metadata)
    assert torch.equal(theirs.pop("tokens"), ours.tokens)
    if ours.scales is not None:
        assert torch.equal(theirs.pop("scales"), ours.scales)
    assert not theirs


def test_parse_safetensors_copies_nothing() -> None:
    content = bytearray(file_of(BF16, tokens_of()))
    tokens = parse_safetensors(memoryview(content), NUM_FRAMES, BF16, "file").tokens
    content[-2:] = b"\x80\x3f"  # 1 in bf16
    assert tokens[-1, -1, -1] == 1


@pytest.mark.parametrize("metadata", [BF16, INT8], ids=lambda metadata: metadata.precision)
def test_each_corrupt_byte_is_detected(metadata: FeatureMetadata) -> None:
    content = file_of(metadata, tokens_of())
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1
        with pytest.raises(ShardError, match=r"^shard: member a\.safetensors "):
            read(bytes(damaged), metadata)


@pytest.mark.parametrize("num_bytes", [0, 5, 8, 60, 300, -1])
def test_truncated_safetensors_file_is_rejected(num_bytes: int) -> None:
    with pytest.raises(
        ShardError, match=r"shard: member a\.safetensors (is corrupt|has a corrupt header)"
    ):
        read(file_of(BF16, tokens_of())[:num_bytes], BF16)
    with pytest.raises(ShardError, match="is corrupt"):
        read(file_of(BF16, tokens_of()) + b"\0", BF16)


@pytest.mark.parametrize(
    ("metadata", "num_frames"),
    [
        (BF16, NUM_FRAMES + 1),
        (INT8, NUM_FRAMES),
        (FeatureMetadata("bf16", NUM_TOKENS, VISION_DIM + 1, {}, ""), NUM_FRAMES),
    ],
)
def test_header_that_differs_from_the_index_is_rejected(
    metadata: FeatureMetadata, num_frames: int
) -> None:
    with pytest.raises(
        ShardError, match=r"has the header .*\[5, 4, 24\].*Its index implies .*tokens"
    ):
        read(file_of(BF16, tokens_of()), metadata, num_frames)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{}", b'{"__metadata__": 7}', b'{"__metadata__": {"crc32": "what"}}', b"\xff" * 8],
)
def test_invalid_header_is_rejected(header: bytes) -> None:
    with pytest.raises(ShardError, match="has a corrupt header"):
        read(len(header).to_bytes(8, "little") + header, BF16)


def test_size_of_an_hour_is_as_documented() -> None:
    for precision, gigabytes in (("bf16", 0.531), ("int8", 0.266)):
        metadata = FeatureMetadata(precision, 64, 1152, {}, "")  # type: ignore[arg-type]
        with torch.device("meta"):
            hour = StoredTokens.empty(3600, metadata)
        num_bytes = sum(
            tensor.nbytes for tensor in (hour.tokens, hour.scales) if tensor is not None
        )
        assert math.isclose(num_bytes / 1e9, gigabytes, abs_tol=0.001)


def test_header_lists_every_tensor() -> None:
    content = file_of(INT8, tokens_of())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.keys() == {"__metadata__", "scales", "tokens"} and length % 8 == 0
    assert header["tokens"] == {"dtype": "I8", "shape": [5, 4, 24], "data_offsets": [80, 560]}
