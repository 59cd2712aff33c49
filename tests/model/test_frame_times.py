"""Times of frames: as words before the visual tokens, and as an embedding in the repository."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lit_hour.config.model import MemAugConfig
from lit_hour.config.schema import Config
from lit_hour.config.validate import check_config
from lit_hour.errors import ConfigError
from lit_hour.model.forgetting import choose_kept_tokens
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.meta_init import missing_weights
from lit_hour.model.multimodal_inputs import build_memaug_query, embed_texts
from lit_hour.model.streaming_repository import StreamingRepository
from lit_hour.model.time_embedding import sinusoidal_features
from lit_hour.training.optim import parameters_by_part
from lit_hour.types import Batch, Features, ImageSet, Sample
from tests.model.toy_model import (
    CONFIG,
    LEFT,
    PROCESSOR,
    RED,
    config_with,
    frames,
    sample,
    toy_model,
)

MEMAUG = replace(CONFIG.model.memaug, temporal_keep_ratio=0.5)
PICTURES = ImageSet(frames(2, seed=9).images)
SAMPLES = (
    sample(frames(22), (RED,), (LEFT, RED)),
    sample(PICTURES, (RED,)),
    sample(None, (LEFT,)),
    sample(frames(3, seed=1), (LEFT,)),
)


def with_times(frame_times, frames_per_time: int = 1) -> Config:
    config = config_with(MEMAUG)
    text = replace(config.text, frame_times=frame_times, frames_per_time=frames_per_time)
    return replace(config, text=text)


def batch_of(config: Config, *samples: Sample) -> Batch:
    processor = replace(PROCESSOR, config=config.text, memaug=config.model.memaug)
    return processor.collate([processor.build_example(one) for one in samples])


def sequences(model: HourLLaVA, batch: Batch, lazy: bool = False) -> list[Tensor]:
    """Return the language model's inputs of each text without padding, `(tokens, dim)` each."""
    inputs = model.build_inputs(batch, model.build_repositories(batch.visuals, lazy=lazy))
    return [
        embeddings[mask]
        for embeddings, mask in zip(inputs.embeddings, inputs.attention_mask, strict=True)
    ]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("frames_per_time", [1, 4, 100])
def test_times_in_words_change_nothing_but_the_words(frames_per_time: int, lazy: bool) -> None:
    """Without the words of the times, the language model's input is equal bit for bit."""
    model, config = toy_model(with_times("off")), with_times("text", frames_per_time)
    plain, timed = batch_of(with_times("off"), *SAMPLES), batch_of(config, *SAMPLES)
    with torch.no_grad():
        expected, found = sequences(model, plain, lazy), sequences(model, timed, lazy)
    num_kept = (11, 11, 0, 0, 4)  # frames of each text; 3 frames are repeated to 8
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        num_words = len(one) - len(other)
        ids = timed.input_ids[index][timed.attention_mask[index]]  # (tokens,)
        written = PROCESSOR.tokenizer.decode(ids[ids >= 0])
        times = re.findall(r"<[\d.]+ s>", written)  # a token for each byte
        assert num_words == sum(map(len, times))
        assert len(times) == -(-num_kept[index] // frames_per_time)
        position = 0
        for token in one:  # the tokens without times are found in order
            position += position < len(other) and torch.equal(token, other[position])
        assert position == len(other)


def test_memaug_sees_the_query_of_a_video_without_times() -> None:
    model = toy_model(with_times("off"))
    queries = []
    for config in (with_times("off"), with_times("text", 3)):
        batch = batch_of(config, SAMPLES[0])
        (repository,) = model.build_repositories(batch.visuals)
        text = embed_texts(batch, model.llm.embed)[0]
        kept = choose_kept_tokens(
            repository, text.question, MEMAUG, None, max(1, len(text.segments) - 1)
        )
        queries.append(build_memaug_query(text, repository, kept))
    plain, timed = queries
    assert plain.num_visual_tokens == [11 * 5] and timed.num_visual_tokens == [15, 15, 15, 10]
    for name in ("tokens", "positions", "is_visual"):
        assert torch.equal(getattr(plain, name), getattr(timed, name)), name


def test_more_placeholders_than_kept_frames_are_refused() -> None:
    model = toy_model(with_times("off"))
    (repository,) = model.build_repositories([frames(22)])
    with pytest.raises(ValueError, match="12 placeholders needs as many kept frames, not 11"):
        choose_kept_tokens(repository, torch.zeros(1, 32), MEMAUG, None, 12)


def test_packed_texts_with_times_have_the_loss_of_padded_ones() -> None:
    config = with_times("text", 2)
    batch = batch_of(config, *SAMPLES)
    padded, packed = toy_model(config), toy_model(config)
    packed.llm.pack_texts()
    losses = [model(batch, None).loss for model in (padded, packed)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_new_embedding_changes_nothing_and_learns(lazy: bool) -> None:
    off, model = toy_model(with_times("off")), toy_model(with_times("embedding"))
    batch = batch_of(with_times("embedding"), *SAMPLES)
    with torch.no_grad():
        expected, found = sequences(off, batch, lazy), sequences(model, batch, lazy)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    model(batch, None).loss.backward()
    assert embedding_of(model).grad is not None and embedding_of(model).grad.abs().max() > 0
    for images_alone in (SAMPLES[1], SAMPLES[2]):  # ranks of a step must have the same gradients
        model.zero_grad()
        model(batch_of(with_times("embedding"), images_alone), None).loss.backward()
        assert not embedding_of(model).grad.any()
    in_part = [weight is embedding_of(model) for weight in parameters_by_part(model)["memaug"]]
    assert sum(in_part) == 1


def embedding_of(model: HourLLaVA) -> Tensor:
    assert model.time_embedding is not None
    return model.time_embedding.weight


def trained_model(config: Config) -> HourLLaVA:
    """Return a model whose embedding of times is as if it was trained."""
    model = toy_model(config)
    with torch.no_grad():
        embedding_of(model).normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return model


def test_embedding_is_that_of_each_frame_and_not_of_the_newline() -> None:
    model, off = trained_model(with_times("embedding")), toy_model(with_times("off"))
    video = replace(frames(12), timestamps=torch.arange(12.0) * 7)
    with torch.no_grad():
        (repository,), (plain,) = (one.build_repositories([video]) for one in (model, off))
        expected = sinusoidal_features(video.timestamps) @ embedding_of(model).T  # (frames, dim)
    added = (repository.tokens - plain.tokens).unflatten(0, (12, -1))  # (frames, tokens + 1, dim)
    torch.testing.assert_close(
        added[:, :-1], expected[:, None].expand(-1, 16, -1), atol=1e-5, rtol=0
    )
    assert not added[:, -1].any()
    assert (expected[1:] - expected[:-1]).norm(dim=1).min() > 0.1  # seconds apart are told apart


def test_lazy_tokens_with_times_equal_dense_ones() -> None:
    model = trained_model(with_times("embedding")).double()
    batch = batch_of(with_times("embedding"), *SAMPLES)
    results = []
    for lazy in (False, True):
        model.zero_grad()
        embeddings = torch.cat(sequences(model, batch, lazy))
        embeddings.square().sum().backward()
        results.append((embeddings.detach(), embedding_of(model).grad))
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("num_frames", [5, 21])
def test_appended_frames_have_the_embeddings_of_their_times(num_frames: int) -> None:
    model = trained_model(with_times("embedding"))
    video = frames(num_frames)
    features = Features(torch.randn(num_frames, 16, model.vision.dim), video.timestamps + 1000)
    for content in (video, features):
        whole, pieces = StreamingRepository(model), StreamingRepository(model)
        whole.append(content)
        for start in range(0, num_frames, 4):
            parts = (tensor[start : start + 4] for tensor in vars(content).values())
            pieces.append(type(content)(*parts))
        one, other = whole.repository(num_frames), pieces.repository(num_frames)
        assert torch.equal(one.tokens, other.tokens)
        for cache, same in zip(one.kv_caches, other.kv_caches, strict=True):
            assert torch.equal(cache.keys, same.keys) and torch.equal(cache.values, same.values)
        with torch.no_grad():
            (built,) = model.build_repositories([content])
        torch.testing.assert_close(one.tokens, built.tokens, atol=1e-5, rtol=1e-5)


def test_embedding_is_initialized_without_a_file_and_changes_the_digest() -> None:
    model = trained_model(with_times("embedding"))
    weights = dict(missing_weights(model, set(), seed=0))
    assert not weights["time_embedding.weight"].any()
    digests = {one.digest() for one in (model, toy_model(with_times("embedding")), toy_model())}
    assert len(digests) == 3


def test_times_in_words_need_frames_that_are_known_before() -> None:
    memaug = MemAugConfig(temporal_forgetting="keyframe")
    words = replace(Config(), text=replace(Config().text, frame_times="text"))
    with pytest.raises(
        ConfigError, match=r"frame_times=text needs.*Set text.frame_times=embedding"
    ):
        check_config(config_with(memaug, words))
    check_config(words)
    learned = replace(words, text=replace(words.text, frame_times="embedding"))
    check_config(config_with(memaug, learned))
    model = trained_model(with_times("embedding"))
    model.config = replace(model.config, memaug=replace(MEMAUG, temporal_forgetting="keyframe"))
    with torch.no_grad():
        assert sequences(model, batch_of(with_times("embedding"), SAMPLES[0]), lazy=True)


def test_times_of_hours_stay_a_second_apart() -> None:
    features = sinusoidal_features(torch.tensor([36_000.0, 36_001.0]))  # (2, features)
    assert (features[0] - features[1]).abs().max() > 0.5
