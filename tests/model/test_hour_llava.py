from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from lit_hour.config.model import MemAugConfig
from lit_hour.config.schema import VideoConfig
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.types import (
    IMAGE_TOKEN_INDEX,
    Batch,
    Example,
    Features,
    ImageSet,
    Message,
    TiledImage,
    TokenizedText,
)
from tests.model.toy_model import (
    CONFIG,
    LEFT,
    NUM_TOKENS,
    PROCESSOR,
    RED,
    batch_of,
    config_with,
    frames,
    sample,
    toy_model,
)

MIXED = batch_of(
    sample(frames(12), (RED, LEFT), (LEFT,)),
    sample(None, (RED,)),
    sample(frames(5, seed=1), (RED,)),
)
TEXT_ONLY = batch_of(sample(None, (RED,)))
SMALL_GRID = replace(
    CONFIG, model=replace(CONFIG.model, vision=replace(CONFIG.model.vision, grid=2))
)


@pytest.fixture(scope="module")
def model() -> HourLLaVA:
    return toy_model()


def prompt_of(question: str, history: Sequence[Message] = ()) -> tuple[TokenizedText, ...]:
    """Tokenize a question about twelve frames, as inference does."""
    conversation = PROCESSOR.build_prompt(question, history)
    return PROCESSOR.tokenize(
        [conversation], num_placeholders=1, note=PROCESSOR.video_note(12.0, 12)
    )


def build_inputs(model: HourLLaVA, batch: Batch, seed: int | None = None) -> LLMInputs:
    """Build the inputs of the language model; with a seed, as in training."""
    generators = None
    if seed is not None:
        generators = [
            Generator().manual_seed(seed + index) for index in range(len(batch.input_ids))
        ]
    with torch.no_grad():
        return model.build_inputs(batch, model.build_repositories(batch.visuals), generators)


def without_gradient(model: HourLLaVA) -> list[str]:
    return [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]


def images(num_images: int, seed: int = 0) -> Tensor:
    return frames(num_images, seed).images


def test_every_parameter_gets_a_gradient_from_a_mixed_batch() -> None:
    model = toy_model().train()
    model(MIXED).loss.backward()
    assert without_gradient(model) == []


def test_every_parameter_gets_a_gradient_of_zero_from_a_text_without_video() -> None:
    model = toy_model().train()
    model(TEXT_ONLY).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    visual = [gradient for name, gradient in gradients.items() if not name.startswith("llm.")]
    assert visual and not any(gradient.any() for gradient in visual if gradient is not None)


def test_stored_features_give_a_trainable_encoder_a_gradient_of_zero() -> None:
    model = toy_model().train()
    features = Features(torch.randn(12, 16, model.vision.dim), torch.arange(12.0))
    model(batch_of(sample(features, (RED,)))).loss.backward()
    gradients = [weight.grad for weight in model.vision.parameters()]
    assert gradients and all(gradient is not None and not gradient.any() for gradient in gradients)


def test_dummy_image_of_a_text_without_video_changes_nothing(model: HourLLaVA) -> None:
    inputs = build_inputs(model, TEXT_ONLY)
    text = LLMInputs(
        model.llm.embed(TEXT_ONLY.input_ids), TEXT_ONLY.labels, TEXT_ONLY.attention_mask
    )
    with torch.no_grad():
        assert torch.equal(model.llm.logits(inputs), model.llm.logits(text))
        assert torch.equal(model.llm.loss(inputs), model.llm.loss(text))


def test_batch_equals_its_texts_alone(model: HourLLaVA) -> None:
    together = build_inputs(model, MIXED)
    samples = (
        sample(frames(12), (RED, LEFT)),
        sample(frames(12), (LEFT,)),
        sample(None, (RED,)),
        sample(frames(5, seed=1), (RED,)),
    )
    for text, one in enumerate(samples):
        alone = build_inputs(model, batch_of(one))
        mask = together.attention_mask[text]
        torch.testing.assert_close(
            together.embeddings[text][mask], alone.embeddings[0], atol=1e-5, rtol=1e-5
        )
        assert torch.equal(together.labels[text][mask], alone.labels[0])


def test_video_replaces_its_placeholder(model: HourLLaVA) -> None:
    inputs = build_inputs(model, MIXED)
    frame_tokens = 4 + 1  # a quarter of 16 tokens, and the newline
    num_visual = (12 // 4) * frame_tokens, (12 // 4) * frame_tokens, 0, (8 // 4) * frame_tokens
    expected = [
        int(mask.sum()) + (num - 1 if num else 0)
        for mask, num in zip(MIXED.attention_mask, num_visual, strict=True)
    ]
    assert inputs.attention_mask.sum(dim=1).tolist() == expected
    placeholder = MIXED.input_ids[0].tolist().index(IMAGE_TOKEN_INDEX)
    before = model.llm.embed(MIXED.input_ids[0, :placeholder])
    assert torch.equal(inputs.embeddings[0, :placeholder], before.detach())


def test_visual_tokens_depend_on_the_question_and_not_on_the_answer(model: HourLLaVA) -> None:
    def visual_tokens(question: str, answer: str) -> Tensor:
        batch = batch_of(sample(frames(12), (replace(RED, question=question, answer=answer),)))
        placeholder = batch.input_ids[0].tolist().index(IMAGE_TOKEN_INDEX)
        return build_inputs(model, batch).embeddings[0, placeholder : placeholder + 15]

    red = visual_tokens("Which color?", "red")
    torch.testing.assert_close(red, visual_tokens("Which color?", "a long blue story"))
    assert float((red - visual_tokens("Which shape?", "red")).abs().max()) > 1e-3


def test_inference_prompts_equal_training_up_to_the_answer(model: HourLLaVA) -> None:
    """With a history too: the last prompt of training is the whole prompt of inference."""
    video = frames(12)
    training = build_inputs(model, batch_of(sample(video, (RED,))))
    inference = build_inputs(
        model, PROCESSOR.collate([Example("key", video, prompt_of(RED.question))])
    )
    torch.testing.assert_close(
        left_pad_prompts(training).embeddings, left_pad_prompts(inference).embeddings
    )

    training = build_inputs(model, batch_of(sample(video, (RED, LEFT))))
    history = Message("user", RED.question), Message("assistant", RED.answer)
    example = Example("key", video, prompt_of(LEFT.question, history))
    prompt = build_inputs(model, PROCESSOR.collate([example])).embeddings  # (1, prompt, dim)
    torch.testing.assert_close(training.embeddings[:, : prompt.shape[1]], prompt)


def test_features_equal_the_frames_that_they_encode(model: HourLLaVA) -> None:
    video = frames(9)
    with torch.no_grad():
        features = Features(model.vision.encode_images(video.images), video.timestamps)
        encoded, stored = model.build_repositories([video, features])
    assert torch.equal(encoded.tokens, stored.tokens)
    assert torch.equal(encoded.timestamps, stored.timestamps)


def test_random_forgetting_is_reproducible_and_differs_from_uniform(model: HourLLaVA) -> None:
    first, again, other, uniform = (
        build_inputs(model, MIXED, seed).embeddings for seed in (3, 3, 4, None)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, uniform)
    assert first.shape == uniform.shape
    with torch.no_grad():
        losses = [
            float(model(MIXED, [Generator().manual_seed(seed)] * 4).loss) for seed in (3, 3, 4)
        ]
    assert losses[0] == losses[1] != losses[2]


def test_long_texts_are_truncated_counted_and_still_trained_on() -> None:
    config = replace(CONFIG, text=replace(CONFIG.text, max_tokens=64))
    model = toy_model(config)
    assert build_inputs(model, MIXED).embeddings.shape[1] == 64
    output = model(MIXED)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert output.inputs.num_truncated == 3  # all but the text without video


def test_number_of_kept_tokens_follows_the_settings() -> None:
    config = config_with(
        MemAugConfig(
            num_layers=1,
            min_frames=4,
            max_kept_frames=5,
            spatial_keep_ratio=1,
            temporal_keep_ratio=1,
        )
    )
    batch = batch_of(sample(frames(12), (RED,)))
    num_tokens = build_inputs(toy_model(config), batch).embeddings.shape[1]
    assert num_tokens == batch.input_ids.shape[1] - 1 + 5 * (16 + 1)


def test_image_size_that_the_tower_does_not_take_raises() -> None:
    config = replace(CONFIG, video=VideoConfig(image_size=96))
    with pytest.raises(
        ConfigError, match=r"video\.image_size=96, but lit-hour-small takes 64\. Set .*=64"
    ):
        HourLLaVA.from_config(config, NUM_TOKENS)


def test_videos_images_and_texts_share_a_batch() -> None:
    """Each text has the inputs that it has alone, and every parameter gets a gradient."""
    visuals = (
        frames(6),
        TiledImage(images(3), grid=(1, 2), size_pixels=(64, 128)),
        ImageSet(images(2, seed=1)),
        ImageSet(images(1, seed=2)),
        None,
    )
    samples = [sample(visual, (RED,)) for visual in visuals]
    mixed, model = batch_of(*samples), toy_model()
    together = build_inputs(model, mixed)
    for text, one in enumerate(samples):
        alone = build_inputs(model, batch_of(one))
        mask = together.attention_mask[text]
        torch.testing.assert_close(
            together.embeddings[text][mask], alone.embeddings[0], atol=1e-5, rtol=1e-5
        )
    num_visual = together.attention_mask.sum(dim=1) - mixed.attention_mask.sum(dim=1)
    # of grids of 4 x 4 a quarter, and a newline for each grid, or for each row of the large one
    # that kept a token
    assert num_visual.tolist() == [2 * 5 - 1, 4 + (2 * 4 + 2) - 1, 2 * (4 + 1) - 2, 4 + 1 - 1, 0]
    model.train()(mixed).loss.backward()
    assert without_gradient(model) == []


def test_images_keep_all_tokens_of_the_tower_while_frames_are_pooled() -> None:
    model = toy_model(SMALL_GRID)
    with torch.no_grad():
        video, image = model.build_repositories([frames(9), ImageSet(images(1))])
    assert [(one.grids[0].rows, one.grids[0].columns) for one in (video, image)] == [(2, 2), (4, 4)]


def test_features_of_the_whole_grid_are_pooled_like_frames() -> None:
    model, video = toy_model(SMALL_GRID), frames(9)
    with torch.no_grad():
        tokens = model.vision.encode_images(video.images, pooled=False)
        encoded, stored = model.build_repositories([video, Features(tokens, video.timestamps)])
    torch.testing.assert_close(encoded.tokens, stored.tokens)


def test_evaluation_has_its_own_spatial_forgetting() -> None:
    random = replace(CONFIG.model.memaug, eval_spatial_forgetting="random")
    uniform, drawn = toy_model(), toy_model(config_with(random))
    first, again = (build_inputs(drawn, MIXED).embeddings for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, build_inputs(uniform, MIXED).embeddings)


@pytest.mark.parametrize(("use_full_memory", "num_frames"), [(True, 16), (False, 4)])
def test_forgotten_frames_matter_only_with_the_full_memory(
    use_full_memory: bool, num_frames: int
) -> None:
    memaug = MemAugConfig(num_layers=2, min_frames=4, use_full_memory=use_full_memory)
    model = toy_model(config_with(memaug))

    def inputs_with(changed: int | None) -> Tensor:
        video = frames(16)
        if changed is not None:
            video.images[changed] = 255 - video.images[changed]
        return build_inputs(model, batch_of(sample(video, (RED,)))).embeddings

    before = inputs_with(None)
    assert sum(not torch.equal(inputs_with(frame), before) for frame in range(16)) == num_frames


def test_answer_words_train_all_but_the_language_model_without_its_layers() -> None:
    """The loss uses the mean visual token of each text, and no decoder layer runs."""
    model, calls = toy_model(), []
    for layer in model.llm.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    model.llm.requires_grad_(False)
    output = model(MIXED, objective="answer_words")
    output.loss.backward()
    assert not calls
    for part in (model.projector, model.memaug):
        assert all(parameter.grad is not None for parameter in part.parameters())
    plain = model(MIXED)
    torch.testing.assert_close(plain.inputs.embeddings, output.inputs.embeddings)
    assert calls and not torch.isclose(plain.loss, output.loss)
