"""Write the adapters of a run as a folder of peft: `export_adapter`.

`peft.PeftModel.from_pretrained(base, folder)` then computes what the run's language model does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.run_dir import RunDir
from lit_hour.weights.convert import ConversionReport
from lit_hour.weights.name_map import ADAPTER
from lit_hour.weights.peft_adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, peft_name_of
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.safetensors_writer import check_empty, complete_or_absent


def export_adapter(
    source: Path, target: Path, overrides: Sequence[str] = (), checkpoint: str | None = None
) -> ConversionReport:
    """Write the adapters of a run as a folder that peft loads.

    Args:
        source: directory of a run that was trained with adapters.
        target: new or empty folder.
        overrides: settings as `a.b=c`, which override those of the run.
        checkpoint: checkpoint of the run, see `RunDir.checkpoint`.

    Raises:
        WeightsError, RunError, ConfigError: The run has no adapters, is incomplete, or the target
            is not empty.
    """
    check_empty(target)
    file = RunDir(source).checkpoint(checkpoint)
    config = load_config(file.with_suffix(".yaml"), overrides)
    if not config.model.llm.lora.rank:
        raise WeightsError(
            f"{file} has no adapters: its model.llm.lora.rank is 0. Leave out --adapter to convert"
            " the model."
        )
    stored = open_run_weights(file, config)
    names = {name: peft_name_of(name) for name in stored.meta_tensors if ADAPTER in name}
    tensors = {peft_name: stored.read(name).contiguous() for name, peft_name in names.items()}
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    values = _config_values(config)
    with complete_or_absent(target.absolute(), num_bytes) as folder:
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (folder / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    notes = [
        f"from {file}",
        "MemAug and the projector are not part of it: they stay in the run",
        f"it belongs to the language model of {_base(config) or 'this run'}",
    ]
    settings = f"model.llm.lora.path={target}"
    back = ("python", "train.py", "-c", "conf/NAME.yaml", settings)
    return ConversionReport(target, len(tensors), num_bytes, tuple(notes), (back,))


def _config_values(config: Config) -> dict[str, Any]:
    lora = config.model.llm.lora
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": _base(config),
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.target_names),
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "fan_in_fan_out": False,
    }


def _base(config: Config) -> str:
    return config.model.llm.path or config.training.init_from
