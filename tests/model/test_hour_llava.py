from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Generator

from lit_hour.config.model import MemAugConfig
from lit_hour.config.schema import VideoConfig
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.multimodal_inputs import LLMInputs, truncate_to_prompts
from lit_hour.types import (
    IMAGE_TOKEN_INDEX,
    Batch,
    Example,
    Features,
    ImageSet,
    Message,
    Sample,
    TiledImage,
    TokenizedText,
)
from tests.model.small import (
    CONFIG,
    LEFT,
    PROCESSOR,
    RED,
    VOCABULARY_SIZE,
    frames,
    sample,
    small_model,
    with_memory,
)


def batch_of(*samples: Sample) -> Batch:
    return PROCESSOR.collate([PROCESSOR.build_example(each) for each in samples])


def asked_text(question: str, history: Sequence[Message] = ()) -> tuple[TokenizedText, ...]:
    """A question about twelve frames, as answering encodes it."""
    conversation = PROCESSOR.build_prompt(question, history)
    return PROCESSOR.tokenize(
        [conversation], num_placeholders=1, note=PROCESSOR.video_note(12.0, 12)
    )


MIXED = batch_of(
    sample(frames(12), (RED, LEFT), (LEFT,)),
    sample(None, (RED,)),
    sample(frames(5, seed=1), (RED,)),
)
TEXT_ONLY = batch_of(sample(None, (RED,)))


@pytest.fixture(scope="module")
def model() -> HourLLaVA:
    return small_model()


def read(model: HourLLaVA, batch: Batch, seed: int | None = None) -> LLMInputs:
    generators = (
        None
        if seed is None
        else [Generator().manual_seed(seed + place) for place in range(len(batch.visuals))]
    )
    with torch.no_grad():
        return model.build_inputs(batch, model.build_repositories(batch.visuals), generators)


def test_every_parameter_learns_from_a_mixed_batch() -> None:
    model = small_model().train()
    model(MIXED).backward()
    silent = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert silent == []


def test_every_parameter_has_a_gradient_for_a_text_without_video() -> None:
    model = small_model().train()
    model(TEXT_ONLY).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    visual = [gradient for name, gradient in gradients.items() if not name.startswith("llm.")]
    assert visual and not any(gradient.any() for gradient in visual if gradient is not None)


def test_stored_features_give_a_vision_encoder_that_learns_a_gradient_of_zero() -> None:
    model = small_model().train()
    features = Features(torch.randn(12, 16, model.vision.dim), torch.arange(12.0))
    model(batch_of(sample(features, (RED,)))).backward()
    gradients = [weight.grad for weight in model.vision.parameters()]
    assert gradients and all(gradient is not None and not gradient.any() for gradient in gradients)


def test_the_dummy_picture_of_a_text_without_video_changes_nothing(model: HourLLaVA) -> None:
    inputs = read(model, TEXT_ONLY)
    alone = LLMInputs(
        model.llm.embed(TEXT_ONLY.input_ids), TEXT_ONLY.labels, TEXT_ONLY.attention_mask
    )
    with torch.no_grad():
        assert torch.equal(model.llm.logits(inputs), model.llm.logits(alone))
        assert torch.equal(model.llm.loss(inputs), model.llm.loss(alone))


def test_a_batch_is_the_same_as_each_text_alone(model: HourLLaVA) -> None:
    together = read(model, MIXED)
    alone = [
        read(model, batch_of(each))
        for each in (
            sample(frames(12), (RED, LEFT)),
            sample(frames(12), (LEFT,)),
            sample(None, (RED,)),
            sample(frames(5, seed=1), (RED,)),
        )
    ]
    for text, single in enumerate(alone):
        is_real = together.attention_mask[text]
        torch.testing.assert_close(
            together.embeddings[text][is_real], single.embeddings[0], atol=1e-5, rtol=1e-5
        )
        assert torch.equal(together.labels[text][is_real], single.labels[0])


def test_the_video_takes_the_place_of_its_placeholder(model: HourLLaVA) -> None:
    inputs = read(model, MIXED)
    num_kept = (
        (12 // 4) * (4 + 1),
        0,
        (8 // 4) * (4 + 1),
    )  # frames x (a quarter of 16 tokens and the frame end)
    num_text = [int(mask.sum()) for mask in MIXED.attention_mask]
    expected = [
        num_text[0] - 1 + num_kept[0],
        num_text[1] - 1 + num_kept[0],
        num_text[2],
        num_text[3] - 1 + num_kept[2],
    ]
    assert inputs.attention_mask.sum(dim=1).tolist() == expected
    place = MIXED.input_ids[0].tolist().index(IMAGE_TOKEN_INDEX)
    before = model.llm.embed(MIXED.input_ids[0, :place])
    assert torch.equal(inputs.embeddings[0, :place], before.detach())


def test_what_is_seen_depends_on_the_question_and_not_on_the_answer(model: HourLLaVA) -> None:
    def visual(question: str, answer: str) -> torch.Tensor:
        asked = replace(RED, question=question, answer=answer)
        batch = batch_of(sample(frames(12), (asked,)))
        place = batch.input_ids[0].tolist().index(IMAGE_TOKEN_INDEX)
        return read(model, batch).embeddings[0, place : place + 15]  # (kept, dim)

    torch.testing.assert_close(
        visual("Which colour?", "red"), visual("Which colour?", "a long blue story")
    )
    assert (
        float((visual("Which colour?", "red") - visual("Which shape?", "red")).abs().max()) > 1e-3
    )


def test_answering_reads_what_training_read_before_the_answer(model: HourLLaVA) -> None:
    """With a history too: the last prompt of training is the whole prompt of answering."""
    video = frames(12)
    taught = batch_of(sample(video, (RED,)))
    (text,) = asked_text(RED.question)
    asked = PROCESSOR.batch([Example("key", video, (text,))])
    in_training, in_answering = (
        truncate_to_prompts(read(model, taught)),
        truncate_to_prompts(read(model, asked)),
    )
    torch.testing.assert_close(in_training.embeddings, in_answering.embeddings)

    taught = batch_of(sample(video, (RED, LEFT)))
    history = (Message("user", RED.question), Message("assistant", RED.answer))
    (text,) = asked_text(LEFT.question, history)
    whole, prompt = (
        read(model, taught),
        read(model, PROCESSOR.collate([Example("key", video, (text,))])),
    )
    torch.testing.assert_close(whole.embeddings[:, : prompt.embeddings.shape[1]], prompt.embeddings)


def test_features_are_frames_that_the_encoder_has_seen(model: HourLLaVA) -> None:
    video = frames(9)
    with torch.no_grad():
        features = Features(model.vision(video.images), video.timestamps)
        seen, stored = model.build_repositories([video, features])
    assert torch.equal(seen.tokens, stored.tokens) and torch.equal(
        seen.timestamps, stored.timestamps
    )


def test_random_forgetting_is_reproducible_and_differs_from_uniform(model: HourLLaVA) -> None:
    first, again, other, uniform = (read(model, MIXED, seed).embeddings for seed in (3, 3, 4, None))
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, uniform)
    assert first.shape == uniform.shape
    with torch.no_grad():
        losses = [float(model(MIXED, [Generator().manual_seed(seed)] * 3)) for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_a_long_text_is_cut_and_what_is_left_still_learns() -> None:
    longest = 64
    config = replace(CONFIG, text=replace(CONFIG.text, max_tokens=longest))
    model = small_model(config)
    assert read(model, MIXED).embeddings.shape[1] == longest
    loss = model(MIXED)
    loss.backward()
    assert torch.isfinite(loss)


def test_what_survives_follows_the_settings() -> None:
    config = with_memory(
        MemAugConfig(
            num_layers=1,
            min_frames=4,
            max_kept_frames=5,
            spatial_keep_ratio=1,
            temporal_keep_ratio=1,
        )
    )
    batch = batch_of(sample(frames(12), (RED,)))
    num_tokens = read(small_model(config), batch).embeddings.shape[1]
    assert num_tokens == batch.input_ids.shape[1] - 1 + 5 * (16 + 1)


def test_frames_of_another_size_than_the_tower_takes_are_a_wrong_setting() -> None:
    config = replace(CONFIG, video=VideoConfig(image_size=96))
    with pytest.raises(ConfigError, match=r"video\.image_size=96, but lit-hour-small takes 64"):
        HourLLaVA(config, VOCABULARY_SIZE)


def pictures(num_pictures: int, seed: int = 0) -> torch.Tensor:
    return frames(num_pictures, seed).images


def test_videos_pictures_and_texts_share_a_batch() -> None:
    """Each is what it is alone, and every part of the model learns from it."""
    visuals = (
        frames(6),
        TiledImage(pictures(3), grid=(1, 2), size_pixels=(64, 128)),
        ImageSet(pictures(2, seed=1)),
        ImageSet(pictures(1, seed=2)),
        None,
    )
    samples = [sample(visual, (RED,)) for visual in visuals]
    mixed, model = batch_of(*samples), small_model()
    together = read(model, mixed)
    for text, each in enumerate(samples):
        single = read(model, batch_of(each))
        is_real = together.attention_mask[text]
        torch.testing.assert_close(
            together.embeddings[text][is_real], single.embeddings[0], atol=1e-5, rtol=1e-5
        )
    num_visual = together.attention_mask.sum(dim=1) - mixed.attention_mask.sum(dim=1)
    # grids of 4 x 4: a quarter of them, with an end for each grid, or for each row of the large one that kept a token
    assert num_visual.tolist() == [2 * 5 - 1, 4 + (2 * 4 + 2) - 1, 2 * (4 + 1) - 2, 4 + 1 - 1, 0]
    model.train()(mixed).backward()
    assert [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ] == []


def test_pictures_keep_all_tokens_of_the_tower_where_frames_are_pooled() -> None:
    config = replace(
        CONFIG, model=replace(CONFIG.model, vision=replace(CONFIG.model.vision, grid=2))
    )
    model = small_model(config)
    with torch.no_grad():
        video, picture = model.build_repositories([frames(9), ImageSet(pictures(1))])
    assert (video.grids[0].num_patch_tokens, picture.grids[0].num_patch_tokens) == (4, 16)


def test_features_of_the_whole_grid_are_pooled_as_frames_are() -> None:
    config = replace(
        CONFIG, model=replace(CONFIG.model, vision=replace(CONFIG.model.vision, grid=2))
    )
    model, video = small_model(config), frames(9)
    with torch.no_grad():
        whole = Features(model.vision(video.images, pooled=False), video.timestamps)
        seen, stored = model.build_repositories([video, whole])
    torch.testing.assert_close(seen.tokens, stored.tokens)


def test_answers_forget_by_a_setting_of_their_own() -> None:
    random = replace(CONFIG.model.memaug, eval_spatial_forgetting="random")
    uniform, drawn = small_model(), small_model(with_memory(random))
    first, again = read(drawn, MIXED).embeddings, read(drawn, MIXED).embeddings
    assert torch.equal(first, again) and not torch.equal(first, read(uniform, MIXED).embeddings)


@pytest.mark.parametrize(("look_back", "num_seen"), [(True, 16), (False, 4)])
def test_frames_that_were_forgotten_are_seen_only_by_a_model_that_looks_back(
    look_back: bool, num_seen: int
) -> None:
    model = small_model(
        with_memory(MemAugConfig(num_layers=2, min_frames=4, use_full_memory=look_back))
    )

    def read_with(changed: int | None) -> torch.Tensor:
        video = frames(16)
        if changed is not None:
            video.images[changed] = 255 - video.images[changed]
        return read(model, batch_of(sample(video, (RED,)))).embeddings

    before = read_with(None)
    assert sum(not torch.equal(read_with(frame), before) for frame in range(16)) == num_seen
