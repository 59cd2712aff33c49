"""An exported model computes what the run does: logits and greedy answers."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from lit_hour.cli.main import main
from lit_hour.config.schema import ImageConfig
from lit_hour.errors import ConfigError, RunError, WeightsError
from lit_hour.evaluation.report.report import write_report
from lit_hour.export.to_transformers import CODE, export_to_transformers
from lit_hour.export.transformers_code.modeling_hour_llava import (
    HourLlavaForConditionalGeneration,
)
from lit_hour.export.transformers_code.processing_hour_llava import HourLlavaProcessor
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.hashing import hash_path
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.run_dir import RunDir
from lit_hour.types import Visual
from lit_hour.weights.convert import convert
from tests.evaluation.factories import make_report, respond
from tests.export.factories import (
    NUM_TOKENS,
    Prompt,
    exported_answer,
    our_answer,
    pictures,
    prompts,
    video,
    write_run,
)
from tests.helpers.siglip_tower import SIGLIP
from tests.weights.factories import TOWER_OVERRIDES, write_hour_llava

RUNS = {
    "lit-hour-conv": (
        "model.vision.name=lit-hour-conv",
        "model.llm.model_type=llama",
        "model.llm.tie_word_embeddings=false",
        "model.llm.vocab_size=320",  # with a row for <image>
        "text.memaug_question_scope=first",
        "model.memaug.eval_spatial_forgetting=none",
        "model.memaug.temporal_forgetting=none",
        "text.time_sentence=none",
    ),
    "ablation": ("model.memaug.use_full_memory=false", "model.llm.lora.rank=2"),
    "no memaug": ("model.memaug.num_layers=0", "model.memaug.temporal_keep_ratio=0.4"),
}


def seen_by_us(prompt: Prompt, image_size: int, config: ImageConfig) -> Visual | None:
    """Return what a prompt is about, prepared by our own code."""
    if prompt.num_frames:
        return video(prompt.num_frames, prompt.side)
    files = []
    for picture in prompt.pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files.append(("picture", buffer.getvalue()))
    if len(files) > 1:
        return load_image_set(files, image_size)
    return load_tiled_image(files[0][1], "picture", image_size, config) if files else None


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load an exported model without trust_remote_code: the same code is in the package."""
    model = HourLlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    values, _ = HourLlavaProcessor.get_processor_dict(folder)
    return model.eval(), HourLlavaProcessor.from_args_and_dict([tokenizer], values)


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Path]:
    """The first run and its export (read-only)."""
    folder = tmp_path_factory.mktemp("tiny")
    run = write_run(folder / "run")
    export_to_transformers(run.path, folder / "out")
    return run, folder / "out"


@pytest.fixture(scope="module")
def tiny(tiny_folders: tuple[RunDir, Path]) -> tuple[Any, Any]:
    """The exported model of the first run, and its processor (read-only)."""
    return load(tiny_folders[1], torch.float64)


def check_equal(run: RunDir, model: Any, processor: Any, skipped: tuple[str, ...] = ()) -> None:
    """Check logits and answers in float64, where nothing but another formula differs."""
    predictor = VideoPredictor.from_run(run.path, device="cpu")
    predictor.model.double()
    assert model.dtype == torch.float64
    image_size = predictor.config.video.image_size
    for name, prompt in prompts(image_size).items():
        if name in skipped:
            continue
        visual = seen_by_us(prompt, image_size, predictor.config.image)
        logits, ids = our_answer(predictor, prompt, visual)
        other_logits, other_ids = exported_answer(model, processor, prompt)
        assert len(logits) == len(other_logits), name
        width = min(logits.shape[1], model.config.image_token_id)  # the row of <image> is masked
        difference = (other_logits[:, :width] - logits[:, :width]).abs().max()
        assert difference < 1e-7 and logits.abs().max() > 1, (name, difference)
        assert ids.tolist() == other_ids.tolist(), name


def test_logits_and_answers_are_equal(
    tiny_folders: tuple[RunDir, Path], tiny: tuple[Any, Any]
) -> None:
    check_equal(tiny_folders[0], *tiny)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_logits_and_answers_are_equal_with_other_settings(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", *RUNS[name])
    export_to_transformers(run.path, tmp_path / "out")
    check_equal(run, *load(tmp_path / "out", torch.float64))


@pytest.mark.slow
def test_published_model_is_exported_with_its_random_forgetting(tmp_path: Path) -> None:
    """As converted: a SigLIP, the published sentence, draws that are the same each time."""
    write_hour_llava(tmp_path / "published")
    run = RunDir(tmp_path / "run")
    overrides = (*TOWER_OVERRIDES, "generation.max_new_tokens=8")
    convert(tmp_path / "published", run.path, overrides)
    export_to_transformers(run.path, tmp_path / "out")
    model, processor = load(tmp_path / "out", torch.float64)
    check_equal(run, model, processor, skipped=("large picture", "special tokens"))  # take long


@pytest.mark.slow
def test_batch_of_all_kinds_answers_as_one_by_one(tiny: tuple[Any, Any]) -> None:
    model, processor = tiny
    cases = list(prompts().values())
    inputs = processor.apply_chat_template(
        [prompt.hf_messages() for prompt in cases],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"durations_seconds": [d for one in cases for d in one.durations()]},
    )
    length = inputs["input_ids"].shape[1]
    alone = [exported_answer(model, processor, prompt)[1].tolist() for prompt in cases]
    for options in ({}, {"use_cache": False}):
        answers = model.generate(**inputs, **options)[:, length:].tolist()
        assert [answer[: len(one)] for answer, one in zip(answers, alone, strict=True)] == alone


def test_several_answers_have_the_images_of_their_text(tiny: tuple[Any, Any]) -> None:
    model, processor = tiny
    texts = ["Two: <image><image>", "None.", "One: <image>"]
    images = [pictures()[:2], [], pictures()[2:]]
    inputs = processor(text=texts, images=images)
    ids, twice = model._expand_inputs_for_generation(expand_size=2, **inputs)
    doubled = processor(
        text=[text for text in texts for _ in range(2)],
        images=[one for one in images for _ in range(2)],
    )
    assert torch.equal(ids, doubled["input_ids"])
    for name in ("pixel_values", "num_images", "tile_grids", "image_sizes", "question_mask"):
        assert torch.equal(twice[name], doubled[name]), name
    assert len(model.generate(**inputs, num_beams=2, num_return_sequences=2)) == 6


def test_save_pretrained_round_trip(tiny_folders: tuple[RunDir, Path], tmp_path: Path) -> None:
    model, processor = load(tiny_folders[1])
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    model_again, processor_again = load(tmp_path / "again")
    for name, weight in model.state_dict().items():
        assert torch.equal(model_again.state_dict()[name], weight), name
    prompt = prompts()["pictures"]
    expected, _ = exported_answer(model, processor, prompt)
    logits, _ = exported_answer(model_again, processor_again, prompt)
    assert torch.equal(logits, expected)


def test_placeholder_is_never_generated(tiny: tuple[Any, Any]) -> None:
    model, processor = tiny
    prompt = prompts()["text"]
    logits, _ = exported_answer(model, processor, prompt)
    assert model.config.image_token_id == NUM_TOKENS  # one row was added for it
    assert logits.shape[1] == NUM_TOKENS + 1
    assert logits[:, NUM_TOKENS].max() == torch.finfo(logits.dtype).min


def test_every_part_learns_from_the_loss(tiny_folders: tuple[RunDir, Path]) -> None:
    model, processor = load(tiny_folders[1])
    inputs = processor(text=["a <image> b", "only text"], images=[pictures()[:1], []])
    ignored = (inputs["input_ids"] == NUM_TOKENS) | (inputs["attention_mask"] == 0)
    labels = inputs["input_ids"].masked_fill(ignored, -100)  # (texts, tokens)
    output = model(**inputs, labels=labels)
    logits = output.logits[:, :-1, :NUM_TOKENS].flatten(0, 1)  # (texts * tokens, vocabulary)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
    assert model.model.frame_newline.grad.abs().sum() > 0


def test_wrong_inputs_are_refused(tiny: tuple[Any, Any]) -> None:
    model, processor = tiny
    with pytest.raises(ValueError, match="There is no text"):
        processor(images=pictures())
    with pytest.raises(ValueError, match="There is no text"):
        processor(text=[])
    with pytest.raises(ValueError, match="The text has 1 <image> for 0 videos and images"):
        processor(text="<image>")
    with pytest.raises(ValueError, match=r"1 videos and 1 images. Give one video, or images"):
        frames = [np.zeros((64, 64, 3), np.uint8)]
        processor(text="<image>", videos=[frames], images=[Image.new("RGB", (9, 9))])
    with pytest.raises(ValueError, match=r"for 3 texts, and 1 texts\. Give a list"):
        processor(text="<image>", images=[[], [], []])
    with pytest.raises(ValueError, match="A frame is float32"):
        processor(text="<image>", videos=np.zeros((2, 64, 64, 3), np.float32))
    inputs = processor(text="a<image>b", images=Image.new("RGB", (9, 9)))
    inputs["input_ids"] = inputs["input_ids"][:, :-2]
    inputs["attention_mask"] = inputs["attention_mask"][:, :-2]
    inputs["question_mask"] = inputs["question_mask"][:, :-2]
    with pytest.raises(ValueError, match="Use the processor of this model"):
        model(**inputs)


def test_long_prompt_is_refused(tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, processor = tiny
    monkeypatch.setattr(processor, "max_tokens", 64)
    with pytest.raises(ValueError, match=r"has 65 tokens .* may have 63. Shorten the question"):
        processor(text="x" * 65)


# What is written


def test_command_writes_a_complete_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", "data.sources.world.shards=shards/world")
    main(["convert", str(run.path), str(tmp_path / "out"), "--to", "transformers"])
    assert f"from {run.checkpoints / 'last.ckpt'}" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    code = {path.name for path in CODE.glob("*_hour_llava.py")}
    assert len(code) == 7
    assert files == code | {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "processor_config.json", "tokenizer.json"),
        "tokenizer_config.json",
    }
    for name in code:
        assert (tmp_path / "out" / name).read_bytes() == (CODE / name).read_bytes()
    for file, classes in (("config", 3), ("processor_config", 1)):
        auto_map = json.loads((tmp_path / f"out/{file}.json").read_text())["auto_map"]
        assert len(auto_map) == classes
        assert {value.split(".")[0] + ".py" for value in auto_map.values()} <= code
    card = (tmp_path / "out/README.md").read_text()
    assert "- `world`: shards/world, weight 1" in card
    assert '| `model.vision.name` | `"lit-hour-tiny"` |' in card
    assert "no report of `lit-hour evaluate`" in card


def test_model_card_has_the_scores_of_this_checkpoint_with_their_protocol(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run")
    checkpoint = run.checkpoints / "last.ckpt"
    for name, digest in (("mine", hash_path(checkpoint)), ("older", "0" * 64)):
        known = {"path": str(checkpoint), "SHA-256": digest}
        report = make_report(respond("ABABABAB"))
        report = replace(
            report, title=f"Benchmark {name}", protocol={"checkpoint": known, "frames": {"fps": 7}}
        )
        (run.evaluation / name).mkdir(parents=True)
        write_report(report, run.evaluation / name / "report.json")
    main(["convert", str(run.path), str(tmp_path / "out"), "--to", "transformers"])
    card = (tmp_path / "out/README.md").read_text()
    assert "**Benchmark mine, run run, checkpoint last: 100.0%" in card
    assert '"fps": 7' in card and "Benchmark older" not in card


@pytest.mark.parametrize("name", ("keyframe", "question"))
def test_forgetting_by_content_is_refused(
    tiny_folders: tuple[RunDir, Path], tmp_path: Path, name: str
) -> None:
    run, setting = tiny_folders[0], f"model.memaug.temporal_forgetting={name}"
    with pytest.raises(ConfigError, match=rf"{setting} cannot be exported .* Set .*=uniform"):
        export_to_transformers(run.path, tmp_path / "out", [setting])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ("text", "embedding"))
def test_times_of_frames_are_refused(
    tiny_folders: tuple[RunDir, Path], tmp_path: Path, name: str
) -> None:
    setting = f"text.frame_times={name}"
    with pytest.raises(ConfigError, match=f"{setting} cannot be exported"):
        export_to_transformers(tiny_folders[0].path, tmp_path / "out", [setting])


def test_what_is_left_out_is_noted(tiny_folders: tuple[RunDir, Path], tmp_path: Path) -> None:
    overrides = ["text.subtitles=all", "model.llm.quantize=int8"]
    report = export_to_transformers(tiny_folders[0].path, tmp_path / "out", overrides)
    assert [note.partition(" ")[0] for note in report.notes] == ["from", *overrides]


def test_two_formats_are_refused(tiny_folders: tuple[RunDir, Path], tmp_path: Path) -> None:
    argv = ["convert", str(tiny_folders[0].path), str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="are two formats"):
        main([*argv, "--to", "transformers", "--adapter"])


@pytest.mark.slow
def test_unsupported_tower_is_refused(tmp_path: Path) -> None:
    name = "model.vision.name=efficientnet-lite0"
    run = write_run(tmp_path / "run", name, "video.image_size=224")
    with pytest.raises(ConfigError, match=r"name=efficientnet-lite0 cannot be exported"):
        export_to_transformers(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(WeightsError, match="full exists and is not empty"):
        export_to_transformers(run.path, tmp_path / "full")
    with pytest.raises(RunError, match="nothing is not a run directory"):
        export_to_transformers(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(RunError, match="has no checkpoint 'best'"):
        export_to_transformers(run.path, tmp_path / "out", checkpoint="best")
    (run.checkpoints / "last.ckpt").unlink()
    with pytest.raises(RunError, match=r"has no checkpoint .* It has: none yet"):
        export_to_transformers(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_checkpoint_leaves_no_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    del content["state_dict"]["model.memaug.blocks.1.self_attention.query.bias"]
    torch.save(content, run.checkpoints / "last.ckpt")
    with pytest.raises(WeightsError, match=r"missing: memaug.blocks.1.self_attention.query.bias"):
        export_to_transformers(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


assert SIGLIP  # its import registers the tower of the published model
