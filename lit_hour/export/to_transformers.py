"""Export a run as a folder that plain transformers loads, without lit_hour.

Start at `export_to_transformers`. Everything is checked before anything is written, weights pass
one at a time, and the folder appears when it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.tokenization_utils_base import AddedToken

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, RunError, download_hint
from lit_hour.export.chat_template import build_chat_template
from lit_hour.export.model_card import ReportedScore, write_model_card
from lit_hour.export.tower_map import TowerMap, map_tower
from lit_hour.export.transformers_code.configuration_hour_llava import (
    HourLlavaConfig,
    HourLlavaVisionConfig,
)
from lit_hour.export.transformers_code.modeling_hour_llava import (
    HourLlavaForConditionalGeneration,
)
from lit_hour.export.transformers_code.processing_hour_llava import (
    IMAGE_TOKEN,
    HourLlavaProcessor,
)
from lit_hour.model.backbones import build_network_config
from lit_hour.run_dir import RunDir
from lit_hour.text.chat_template import VIDEO_NOTES
from lit_hour.text.tokenizer import Tokenizer, end_of_turn_id, load_tokenizer, save_tokenizer
from lit_hour.weights.convert import ConversionReport
from lit_hour.weights.hf_folder import drop_tied_output, meta_state_dict
from lit_hour.weights.name_map import EMBEDDING, TOWER, merge_adapters
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import (
    OUTPUT_LAYER,
    StoredWeights,
    check_state_dict,
    optional_weights,
)
from lit_hour.weights.safetensors_writer import check_empty, complete_or_absent, write_weights

CODE = Path(__file__).parent / "transformers_code"
AUTO_MAP = {
    "AutoConfig": "configuration_hour_llava.HourLlavaConfig",
    "AutoModel": "modeling_hour_llava.HourLlavaModel",
    "AutoModelForImageTextToText": "modeling_hour_llava.HourLlavaForConditionalGeneration",
}
PROCESSOR_MAP = {"AutoProcessor": "processing_hour_llava.HourLlavaProcessor"}
PREFIXES = {  # ours to those of the exported model; the vision tower has a map of its own
    "frame_newline": "model.frame_newline",
    "projector.": "model.projector.",
    "memaug.": "model.memaug.",
    "llm.network.model.": "model.language_model.",
    "llm.network.lm_head.": "lm_head.",
}
TEMPORAL_FORGETTING = ("uniform", "none")


def export_to_transformers(
    source: Path,
    target: Path,
    overrides: Sequence[str] = (),
    checkpoint: str | None = None,
    read_scores: Callable[[Path], Sequence[ReportedScore]] = lambda checkpoint: (),
) -> ConversionReport:
    """Export a run as a folder for `from_pretrained(..., trust_remote_code=True)`.

    Args:
        source: the run folder.
        target: new or empty folder.
        overrides: settings as `a.b=c`, which override those of the run.
        checkpoint: checkpoint of the run, see `RunDir.checkpoint`.
        read_scores: returns those of evaluations of a checkpoint, for the model card.

    Raises:
        RunError: the source is not a run.
        WeightsError: the checkpoint is incomplete, or the target is not empty.
        ConfigError: a setting is unsupported.
    """
    check_empty(target)
    if not (source / "checkpoints").is_dir():
        raise RunError(
            f"{source} is not a run directory (with checkpoints/). Give the folder of a run, or"
            f" convert a published model to one first.{download_hint(source)}"
        )
    run = RunDir(source)
    file = run.checkpoint(checkpoint)
    config = load_config(file.with_suffix(".yaml"), overrides)
    _check_exportable(config)
    tokenizer = load_tokenizer(run.tokenizer)
    plain = _open_plain(file, config, len(tokenizer))
    tower = map_tower(config.model.vision)
    image_token_id = _add_image_token(tokenizer)
    num_rows = max(len(plain.meta_tensors[EMBEDDING]), image_token_id + 1)
    exported = _build_config(config, tower, image_token_id, num_rows)
    exported.dtype = plain.meta_tensors[EMBEDDING].dtype
    weights = _rename(plain, tower, _meta_state(exported))
    scores = read_scores(file)
    target = target.absolute()
    with complete_or_absent(target, weights.num_bytes) as unfinished:
        write_weights(unfinished, weights.tensors())
        exported.save_pretrained(unfinished)
        _build_generation_config(config, tokenizer).save_pretrained(unfinished)
        _save_processor(config, tower, tokenizer, unfinished)
        for module in CODE.glob("*_hour_llava.py"):
            shutil.copyfile(module, unfinished / module.name)
        write_model_card(unfinished, target.name, config, file, scores)
    return ConversionReport(
        target,
        len(weights.meta_tensors),
        weights.num_bytes,
        (f"from {file}", *_notes(config)),
        (("less", str(target / "README.md")),),
    )


def _open_plain(file: Path, config: Config, num_tokens: int) -> StoredWeights:
    """Open the weights of a checkpoint, without adapters and without a tied output layer."""
    stored = open_run_weights(file, config)
    check_state_dict(
        meta_state_dict(config, num_tokens),
        stored.meta_tensors,
        f"{file}, with the settings beside it,",
        optional=optional_weights(config),
    )
    plain = merge_adapters(stored, config.model.llm.lora)
    return plain.subset(drop_tied_output(plain.meta_tensors, config).keys())


def _check_exportable(config: Config) -> None:
    """Check that the exported code has these methods.

    Raises:
        ConfigError: it does not.
    """
    temporal, frame_times = config.model.memaug.temporal_forgetting, config.text.frame_times
    if temporal not in TEMPORAL_FORGETTING:
        raise ConfigError(
            f"model.memaug.temporal_forgetting={temporal} cannot be exported to transformers: the"
            " kept frames would depend on the tokens. Set model.memaug.temporal_forgetting=uniform"
            " to answer with evenly spaced ones."
        )
    if frame_times != "off":
        raise ConfigError(
            f"text.frame_times={frame_times} cannot be exported to transformers: the exported code"
            " gives the model no times of frames. Export a run with text.frame_times=off."
        )


def _notes(config: Config) -> list[str]:
    notes = []
    if config.model.llm.lora.rank:
        notes.append("the LoRA adapters are merged into the language model")
    if config.text.subtitles != "off":
        notes.append(
            f"text.subtitles={config.text.subtitles} is left out: the exported processor reads no"
            " subtitles"
        )
    if config.model.llm.quantize != "none":
        notes.append(
            f"model.llm.quantize={config.model.llm.quantize} is left out: the exported weights are"
            " not quantized, so answers may differ"
        )
    return notes


def _add_image_token(tokenizer: Tokenizer) -> int:
    """Add the token `<image>`, unless there is one, and return its id."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return int(tokenizer.get_vocab()[IMAGE_TOKEN])


def _memory_values(config: Config, tower: TowerMap) -> dict[str, Any]:
    """Return the values of `MemorySettings`."""
    memaug = config.model.memaug
    return {
        "frame_side": tower.frame_side,
        "image_side": tower.image_side,
        "max_tiles": config.image.max_tiles,
        "min_frames": memaug.min_frames,
        "max_kept_frames": memaug.max_kept_frames,
        "spatial_keep_ratio": memaug.spatial_keep_ratio,
        "temporal_keep_ratio": memaug.temporal_keep_ratio,
        "spatial_forgetting": memaug.eval_spatial_forgetting,
        "temporal_forgetting": memaug.temporal_forgetting,
    }


def _build_config(
    config: Config, tower: TowerMap, image_token_id: int, num_rows: int
) -> HourLlavaConfig:
    text = build_network_config(config.model.llm, num_rows)
    text.max_position_embeddings = config.text.max_tokens
    vision = HourLlavaVisionConfig(
        tower=tower.tower,
        image_mean=tower.image_mean,
        image_std=tower.image_std,
        encode_batch_size=config.model.vision.encode_batch_size,
        sizes=dict(tower.sizes),
    )
    return HourLlavaConfig(
        text_config=text,
        vision_config=vision,
        memory=_memory_values(config, tower),
        memaug_num_layers=config.model.memaug.num_layers,
        use_full_memory=config.model.memaug.use_full_memory,
        image_token_id=image_token_id,
        architectures=[HourLlavaForConditionalGeneration.__name__],
        auto_map=AUTO_MAP,
    )


def _meta_state(exported: HourLlavaConfig) -> dict[str, Tensor]:
    """Return the state dict of the exported model on the device "meta", without a tied output."""
    with torch.device("meta"):
        state = HourLlavaForConditionalGeneration(exported).state_dict()
    if exported.tie_word_embeddings:
        del state["lm_head.weight"]
    return dict(state)


def _rename(
    stored: StoredWeights, tower: TowerMap, expected: Mapping[str, Tensor]
) -> StoredWeights:
    """Return our weights under the names of the exported model, and in its shapes."""
    name_of = {}
    for name in stored.meta_tensors:
        if name.startswith(TOWER):
            if new := tower.names.get(name.removeprefix(TOWER)):
                name_of[f"model.vision_tower.{new}"] = name
            continue
        prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        name_of[PREFIXES[prefix] + name.removeprefix(prefix)] = name

    def read(new: str) -> Tensor:
        tensor, shape = stored.read(name_of[new]), expected[new].shape
        if name_of[new] in (EMBEDDING, OUTPUT_LAYER) and len(tensor) < shape[0]:
            rows = tensor.new_zeros(shape[0] - len(tensor), shape[1])  # (rows, dim) of <image>
            return torch.cat([tensor, rows])  # (vocabulary, dim)
        return tensor.reshape(shape)

    meta = {
        new: torch.empty(expected[new].shape, dtype=stored.meta_tensors[old].dtype, device="meta")
        for new, old in name_of.items()
    }
    check_state_dict(expected, meta, f"{stored.path}, with the exported names,")
    return StoredWeights(stored.path, meta, read)


def _build_generation_config(config: Config, tokenizer: Tokenizer) -> GenerationConfig:
    end_id = end_of_turn_id(tokenizer)
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=config.generation.max_new_tokens,
        eos_token_id=end_id,
        pad_token_id=end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )


def _save_processor(config: Config, tower: TowerMap, tokenizer: Tokenizer, folder: Path) -> None:
    processor = HourLlavaProcessor(
        tokenizer,
        image_size=config.video.image_size,
        max_grid=config.image.max_grid,
        max_tokens=config.text.max_tokens,
        memory=_memory_values(config, tower),
        video={
            "sampling": config.video.sampling,
            "fps": config.video.fps,
            "min_frames": config.video.min_frames,
            "max_frames": config.video.max_frames,
            "note": VIDEO_NOTES[config.text.time_sentence],
            "question_scope": config.text.memaug_question_scope,
        },
        chat_template=build_chat_template(config.text),
    )
    processor.auto_map = PROCESSOR_MAP
    tokenizer.chat_template = None  # that of the processor is used, and saved beside it
    tokenizer.padding_side = "left"
    processor.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
