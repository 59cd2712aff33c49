import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lit_hour.cli.main import main
from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LANGUAGE_MODELS, LanguageModel
from lit_hour.model.vision_encoder import shipped_weights
from lit_hour.synthetic import described_videos
from lit_hour.synthetic.described_videos import (
    FRAME_WORDS,
    DescribedVideos,
    draw_story,
    short_questions,
    shorten,
    train_tokenizer,
)
from lit_hour.synthetic.pretrain_language import (
    FrameWords,
    build_inputs,
    pretrain_language,
    train_language,
)
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.story import COLORS, SHAPES
from lit_hour.text.answer_matching import label_options
from lit_hour.text.tokenizer import Tokenizer, load_tokenizer
from lit_hour.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from lit_hour.weights.pretrained import (
    config_for_new_run,
    load_pretrained_weights,
    pretrained_tokenizer,
)
from tests import CONF

FILE = CONF / "experiment" / "pretrain_language" / "language.yaml"
CONFIG = load_config(FILE)
SHIPPED = LANGUAGE_MODELS / "lit-hour-lm"
SMALL = ("model.llm.num_layers=1", "model.llm.hidden_size=32", "model.llm.intermediate_size=64")
UNSEEN_SEED = 1 << 40  # beyond the stories of every seed of the command


def small_settings(**settings: int) -> list[str]:
    return [*SMALL, *(f"pretrain_language.{name}={value}" for name, value in settings.items())]


def test_described_frames_show_what_the_questions_ask_for() -> None:
    videos = DescribedVideos(CONFIG, load_tokenizer(SHIPPED), UNSEEN_SEED)
    kinds = {
        "What colour is the background of the first scene?": ("background", 0),
        "What colour is the background of the last scene?": ("background", -1),
        "Which shape is seen in the first scene?": ("shape", 0),
        "Which shape is seen in the last scene?": ("shape", -1),
        "What colour is the shape in the first scene?": ("color", 0),
        "What colour is the shape in the last scene?": ("color", -1),
    }
    labels, num_checked = list(FRAME_WORDS), 0
    for _ in range(6):
        batch = videos.draw(8)
        for frames, questions in zip(batch.frames, batch.texts.questions, strict=True):
            for question in questions:
                if question.question in kinds:
                    label, frame = kinds[question.question]
                    word = FRAME_WORDS[label][frames[frame, labels.index(label)]]
                    assert word == question.answer, question
                    num_checked += 1
                elif question.task == "object/object_attribute":
                    shape = question.question.removesuffix("?").rpartition(" ")[2]
                    seen = {
                        FRAME_WORDS["color"][color]
                        for kind, color, _ in frames.tolist()
                        if SHAPES[kind] == shape
                    }
                    assert seen == {question.answer}, question
    assert num_checked > 20


def test_short_questions_end_as_the_questions_do_and_have_their_answers() -> None:
    story = draw_story(UNSEEN_SEED, 40.0, num_scenes=5)
    known = {question.question: question.answer for question in generate_questions(story, "story")}
    short = dict(short_questions(story, Random(0)))
    assert len(set(short)) > 8
    for question, answer in known.items():
        ends = [wording for wording in short if question.endswith(f" {wording}")]
        assert short[max(ends, key=len)] == answer  # "behind the star?" is also "the star?"
    with pytest.raises(ValueError, match="begins with none of"):
        shorten("Who is there?")


def test_only_the_answers_of_short_questions_have_labels() -> None:
    tokenizer = load_tokenizer(SHIPPED)
    batch = DescribedVideos(CONFIG, tokenizer, UNSEEN_SEED).draw_short(2)
    first, frames = batch.texts, batch.frames
    assert len(frames) == 2 and batch.tokens_per_frame == 1
    assert first.input_ids[:, 0].tolist() == [IMAGE_TOKEN_INDEX] * 2
    assert not first.question_mask.any()
    is_label = first.labels != IGNORE_INDEX
    assert torch.equal(first.labels[is_label], first.input_ids[is_label])
    words = {tokenizer.decode([token]) for token in first.labels[is_label].tolist()}
    assert words <= {*COLORS, *SHAPES}
    lines = tokenizer.decode(first.input_ids[0, 1:][first.attention_mask[0, 1:]]).splitlines()
    assert len(lines) == 2 * int(is_label[0].sum())
    assert all(line.startswith(" ") and line.endswith("?") for line in lines[::2])


def test_conversations_with_letters_have_short_questions_about_the_options() -> None:
    tokenizer = load_tokenizer(SHIPPED)
    videos, formats = DescribedVideos(CONFIG, tokenizer, UNSEEN_SEED), set()
    for _ in range(8):
        batch = videos.draw(1)
        (questions,), text = batch.texts.questions, tokenizer.decode(batch.texts.input_ids[0, 50:])
        is_letter = "the letter of the right option" in text
        formats.add(is_letter)
        if is_letter:
            for question in questions:
                for letter, option in label_options(question.options).items():
                    assert f"\n option {option}\n{letter}\n" in text
    assert formats == {True, False}


def test_command_trains_anew_and_its_folder_is_a_plain_language_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(described_videos, "NUM_TOKENIZER_STORIES", 2)
    out = tmp_path / "lm"
    settings = small_settings(num_steps=10, batch_size=4, num_val_stories=16)
    main(["pretrain-language", str(out), "-c", str(FILE), *settings])
    report = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert report["settings"]["num_steps"] == 10
    assert f"{report['accuracy']['open_ended']:.1%}" in capsys.readouterr().out
    stored = load_file(out / "model.safetensors")
    assert {str(weight.dtype) for weight in stored.values()} == {"torch.float16"}
    network = AutoModelForCausalLM.from_pretrained(out)
    assert network.config.vocab_size == len(load_tokenizer(out))
    with pytest.raises(ConfigError, match="Cannot create the folder"):
        main(["pretrain-language", str(out), "-c", str(FILE), *settings])


def test_same_seed_makes_the_same_weights_and_another_seed_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(described_videos, "NUM_TOKENIZER_STORIES", 2)
    files = []
    for number, seed in enumerate((0, 0, 1)):
        sizes = small_settings(num_steps=2, batch_size=2, num_val_stories=1, seed=seed)
        out = tmp_path / str(number)
        pretrain_language(load_config(FILE, sizes), out)
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_shipped_weights_load_with_every_tensor_and_the_tokenizer() -> None:
    config = config_for_new_run(load_config(CONF / "tiny.yaml"))
    assert config.model.llm.path == "lit-hour-lm"
    assert pretrained_tokenizer(config) == SHIPPED
    size = (SHIPPED / "model.safetensors").stat().st_size
    assert size + shipped_weights("lit-hour-conv").stat().st_size < 4_000_000
    model = HourLLaVA.from_config(config, len(load_tokenizer(SHIPPED)))
    before = {name: weight.clone() for name, weight in model.llm.state_dict().items()}
    loaded = load_pretrained_weights(model, config)
    tied = "llm.network.lm_head.weight"
    assert {name for name in loaded if name.startswith("llm.")} | {tied} == {
        f"llm.{name}" for name in before
    }
    assert not any(
        torch.equal(before[name], weight) for name, weight in model.llm.state_dict().items()
    )


def share_of_right_kind(llm: LanguageModel, tokenizer: Tokenizer) -> float:
    """Return how often the likeliest first answer is a color or a shape, whichever is asked for.

    The frames say nothing: their words have random vectors.
    """
    words = FrameWords(llm.dim, tokenizer)
    batch = DescribedVideos(CONFIG, tokenizer, UNSEEN_SEED).draw_default_run(32, "text")
    with torch.no_grad():
        inputs = build_inputs(llm, words, batch, CONFIG.text.max_tokens)
        predicted = llm.logits(inputs)[:, :-1].argmax(dim=-1)  # (texts, tokens - 1)
    kinds = []
    for text, questions in enumerate(batch.texts.questions):
        first = int((inputs.labels[text, 1:] != IGNORE_INDEX).nonzero()[0])
        word = tokenizer.decode([int(predicted[text, first])])
        kinds.append(word in (COLORS if "colour" in questions[0].question else SHAPES))
    return sum(kinds) / len(kinds)


def test_shipped_weights_answer_with_a_word_of_the_right_kind() -> None:
    config = config_for_new_run(load_config(CONF / "tiny.yaml"))
    tokenizer = load_tokenizer(SHIPPED)
    torch.manual_seed(0)
    model = HourLLaVA.from_config(config, len(tokenizer))
    before = share_of_right_kind(model.llm, tokenizer)
    load_pretrained_weights(model, config)
    after = share_of_right_kind(model.llm, tokenizer)
    assert after > 0.8 > 0.3 > before


def test_few_steps_of_training_lower_the_loss_about_unseen_stories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(described_videos, "NUM_TOKENIZER_STORIES", 2)
    settings = small_settings(num_steps=60, batch_size=4)
    config = load_config(FILE, [*settings, "pretrain_language.learning_rate=1e-2"])
    tokenizer = train_tokenizer(config, 0)
    torch.manual_seed(0)
    llm = LanguageModel(config.model.llm, len(tokenizer))
    words = FrameWords(llm.dim, tokenizer)
    unseen = DescribedVideos(config, tokenizer, UNSEEN_SEED).draw(8)

    def loss() -> float:
        with torch.no_grad():
            return llm.loss(build_inputs(llm, words, unseen, config.text.max_tokens)).item()

    before = loss()
    train_language(llm, words, DescribedVideos(config, tokenizer, 0), config)
    assert loss() < 0.7 * before
