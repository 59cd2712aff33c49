"""Tokens as a shard holds them: what becomes of them, and what damage is found."""

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
    """Noise in which each token has a size of its own."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-3, 3, num_frames * NUM_TOKENS).view(
        num_frames, NUM_TOKENS, 1
    )  # (frames, tokens, 1)
    return (
        torch.randn(num_frames, NUM_TOKENS, VISION_DIM, generator=generator) * sizes
    )  # (frames, tokens, vision_dim)


def file_of(encoding: FeatureMetadata, tokens: Tensor) -> bytes:
    return b"".join(to_safetensors(encode_tokens(tokens, encoding.precision), encoding))


def read(content: bytes, encoding: FeatureMetadata, num_frames: int = NUM_FRAMES) -> StoredTokens:
    return parse_safetensors(
        memoryview(bytearray(content)), num_frames, encoding, "shard: member a.safetensors"
    )


# What becomes of tokens


def test_bf16_loses_what_bf16_has_not() -> None:
    tokens = tokens_of()
    assert torch.equal(read(file_of(BF16, tokens), BF16).expand(), tokens.bfloat16())


def test_int8_is_wrong_by_half_a_step_of_each_token_and_by_the_rounding_to_bf16() -> None:
    tokens = tokens_of()
    stored = read(file_of(INT8, tokens), INT8)
    assert stored.scales is not None
    torch.testing.assert_close(stored.scales, tokens.abs().amax(-1) / 127)
    assert (stored.tokens.abs().amax(-1) == 127).all()
    expanded = stored.expand()
    error = (expanded.float() - tokens).abs()  # (frames, tokens, vision_dim)
    assert expanded.dtype == torch.bfloat16
    assert (error <= stored.scales[..., None] * 0.501 + tokens.abs() * 2**-8).all()
    assert (error > stored.scales[..., None] * 0.4).any()  # the bound is not far away


def test_a_token_of_zeros_stays_one_and_an_outlier_coarsens_its_own_token_alone() -> None:
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


@pytest.mark.parametrize("encoding", [BF16, INT8], ids=lambda encoding: encoding.precision)
def test_many_frames_expand_as_few_do(encoding: FeatureMetadata) -> None:
    tokens = tokens_of(600)
    stored = encode_tokens(tokens, encoding.precision)
    parts = [stored[start : start + 7].expand() for start in range(0, 600, 7)]
    assert torch.equal(stored.expand(), torch.cat(parts))
    assert torch.equal(stored[[3, 500]].expand(), stored.expand()[[3, 500]])


@pytest.mark.parametrize("encoding", [BF16, INT8], ids=lambda encoding: encoding.precision)
def test_tokens_that_come_in_chunks_make_the_same_file(encoding: FeatureMetadata) -> None:
    tokens = tokens_of()
    whole = StoredTokens.empty(NUM_FRAMES, encoding)
    for frames in (slice(0, 3), slice(3, 5)):
        whole[frames].copy_from(encode_tokens(tokens[frames], encoding.precision))
    assert b"".join(to_safetensors(whole, encoding)) == file_of(encoding, tokens)


# The file


@pytest.mark.parametrize("encoding", [BF16, INT8], ids=lambda encoding: encoding.precision)
def test_the_library_of_the_format_reads_the_same(encoding: FeatureMetadata) -> None:
    content = file_of(encoding, tokens_of())
    theirs, ours = safetensors.torch.load(content), read(content, encoding)
    assert torch.equal(theirs.pop("tokens"), ours.tokens)
    if ours.scales is not None:
        assert torch.equal(theirs.pop("scales"), ours.scales)
    assert not theirs


def test_reading_copies_nothing() -> None:
    content = bytearray(file_of(BF16, tokens_of()))
    tokens = parse_safetensors(memoryview(content), NUM_FRAMES, BF16, "file").tokens
    content[-2:] = b"\x80\x3f"  # 1 in bf16
    assert tokens[-1, -1, -1] == 1


@pytest.mark.parametrize("encoding", [BF16, INT8], ids=lambda encoding: encoding.precision)
def test_each_damaged_byte_is_found(encoding: FeatureMetadata) -> None:
    content = file_of(encoding, tokens_of())
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(ShardError, match=r"^shard: member a\.safetensors "):
            read(bytes(damaged), encoding)


@pytest.mark.parametrize("num_bytes", [0, 5, 8, 60, 300, -1])
def test_a_file_that_ends_too_early_is_named(num_bytes: int) -> None:
    with pytest.raises(
        ShardError, match=r"shard: member a\.safetensors (is corrupt|has a corrupt header)"
    ):
        read(file_of(BF16, tokens_of())[:num_bytes], BF16)
    with pytest.raises(ShardError, match="is corrupt"):
        read(file_of(BF16, tokens_of()) + b"\0", BF16)


@pytest.mark.parametrize(
    ("encoding", "num_frames"),
    [
        (BF16, NUM_FRAMES + 1),
        (INT8, NUM_FRAMES),
        (FeatureMetadata("bf16", NUM_TOKENS, VISION_DIM + 1, {}, ""), NUM_FRAMES),
    ],
)
def test_a_file_that_does_not_fit_the_index_is_named(
    encoding: FeatureMetadata, num_frames: int
) -> None:
    with pytest.raises(
        ShardError, match=r"has the header .*\[5, 4, 24\].*Its index implies .*tokens"
    ):
        read(file_of(BF16, tokens_of()), encoding, num_frames)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{}", b'{"__metadata__": 7}', b'{"__metadata__": {"crc32": "what"}}', b"\xff" * 8],
)
def test_a_header_that_is_none_is_named(header: bytes) -> None:
    with pytest.raises(ShardError, match="has a corrupt header"):
        read(len(header).to_bytes(8, "little") + header, BF16)


def test_an_hour_has_the_size_that_the_documentation_says() -> None:
    for precision, gigabytes in (("bf16", 0.531), ("int8", 0.266)):
        encoding = FeatureMetadata(precision, 64, 1152, {}, "")  # type: ignore[arg-type]
        with torch.device("meta"):
            hour = StoredTokens.empty(3600, encoding)
        num_bytes = sum(each.nbytes for each in (hour.tokens, hour.scales) if each is not None)
        assert math.isclose(num_bytes / 1e9, gigabytes, abs_tol=0.001)


def test_the_header_names_every_tensor() -> None:
    content = file_of(INT8, tokens_of())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.keys() == {"__metadata__", "scales", "tokens"} and length % 8 == 0
    assert header["tokens"] == {"dtype": "I8", "shape": [5, 4, 24], "data_offsets": [80, 560]}
