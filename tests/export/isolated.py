"""Load an exported model in a process without lit_hour, and write its answers.

    python -I isolated.py EXPORT PROMPTS.json OUT.safetensors

PROMPTS.json maps names to messages. The model and its processor are also saved and loaded again;
the second answers have names that end in "again".
"""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

REFUSED = ("lit_hour", "lightning", "open_clip", "tests")


class RefuseImports:
    """Fails at the import of these packages, which this environment has."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is imported by exported code")
        return None


def main(export: str, prompts: str, out: str) -> None:
    sys.meta_path.insert(0, RefuseImports())  # type: ignore[arg-type]
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    answers = {}
    messages_of = json.loads(Path(prompts).read_text(encoding="utf-8"))
    folder = export
    for suffix in ("", " again"):
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        for name, messages in messages_of.items():
            inputs = processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
            with torch.inference_mode():
                answers[f"{name}{suffix} logits"] = model(**inputs).logits[0].clone()
            ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
            answers[f"{name}{suffix} ids"] = ids.clone()
        folder = f"{out}.again"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {*REFUSED, "timm"}, loaded & {*REFUSED, "timm"}
    save_file(answers, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
