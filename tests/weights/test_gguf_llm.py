"""Language models in GGUF files equal transformers' with the same weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.io.packaged_weights import SMOLLM2, find_packaged_weights
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.weights.pretrained import (
    config_for_new_run,
    load_pretrained_weights,
    open_pretrained,
    pretrained_tokenizer,
)
from tests.helpers.small_parts import needs_small
from tests.weights.gguf_factory import NUM_TOKENS, make_llama, write_gguf

pytest.importorskip("gguf", reason="gguf is not installed; pip install 'lit_hour[small]'")
TOWER = (
    "model.vision.name=lit-hour-tiny",
    "model.vision.layer=-1",
    "model.memaug.num_layers=1",
    "video.image_size=64",
)


def init_model(*overrides: str) -> tuple[Config, HourLLaVA]:
    config = config_for_new_run(load_config(None, [*TOWER, *overrides]))
    open_pretrained(config)
    tokenizer = pretrained_tokenizer(config)
    assert tokenizer is not None
    model = HourLLaVA.from_config(config, len(load_tokenizer(tokenizer)))
    load_pretrained_weights(model, config)
    return config, model.eval()


def logits(model: HourLLaVA, ids: Tensor) -> Tensor:
    """Return the logits of our language model for token ids `(texts, tokens)`."""
    embeddings = model.llm.embed(ids)
    with torch.no_grad():
        return model.llm.logits(
            LLMInputs(embeddings, torch.full_like(ids, -100), torch.ones_like(ids).bool())
        )


@pytest.mark.parametrize("tied", (True, False))
def test_logits_equal_those_of_transformers(tmp_path: Path, tied: bool) -> None:
    llama, file = make_llama(tied), tmp_path / "model.gguf"
    weights = write_gguf(file, llama)
    config, model = init_model(f"model.llm.path={file}")
    assert config.model.llm.model_type == "llama"
    assert config.model.llm.tie_word_embeddings == tied
    for name, weight in weights.items():
        assert torch.equal(model.state_dict()[f"llm.network.{name}"], weight), name
    ids = torch.randint(0, NUM_TOKENS, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(logits(model, ids), llama(ids).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        (
            {"architecture": "qwen9"},
            "general.architecture='qwen9' is unsupported. Supported: 'llama'",
        ),
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type is unsupported"),
        ({"llama__block_count": None}, "num_hidden_layers=None must be a number"),
        ({"llama__block_count": 3}, "missing: model.layers.2.input_layernorm.weight"),
        ({"drop": "blk.1.attn_k.weight"}, "missing: model.layers.1.self_attn.k_proj.weight"),
        ({"llama__feed_forward_length": 95}, "wrong shape: model.layers.{0-1}.mlp.down_proj"),
        ({"tokenizer__ggml__pre": "tekken"}, "tokenizer.ggml.pre='tekken' is unsupported"),
        ({"tokenizer__ggml__tokens": None}, "tokenizer.ggml.tokens must be a list of strings"),
        (
            {"tokenizer__ggml__merges": ["a zzz"]},
            "tokenizer.ggml.merges has 'a zzz', which are not tokens",
        ),
        ({"tokenizer__ggml__token_type": [1]}, "token_type must have one number for each token"),
    ),
)
def test_file_that_would_be_computed_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, make_llama(True), **changes)  # type: ignore[arg-type]
    with pytest.raises(WeightsError) as caught:
        init_model(f"model.llm.path={file}")
    assert message in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("damage", ("empty", "junk", "header", "middle", "end", "missing"))
def test_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, make_llama(True))
    content = file.read_bytes()
    lengths = {"empty": 0, "header": 20, "middle": len(content) // 3, "end": len(content) - 64}
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"GGJF" * 99 if damage == "junk" else content[: lengths[damage]])
    with pytest.raises(WeightsError, match=r"model\.gguf"):
        init_model(f"model.llm.path={file}")


def test_replaced_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, make_llama(True))
    assert init_model(f"model.llm.path={file}")[0].model.llm.tie_word_embeddings
    write_gguf(file, make_llama(False))
    assert not init_model(f"model.llm.path={file}")[0].model.llm.tie_word_embeddings


@needs_small
@pytest.mark.slow
def test_smollm2_equals_the_model_that_transformers_reads_from_the_file() -> None:
    file = find_packaged_weights(SMOLLM2, "model.llm.path")
    expected = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    _, model = init_model(f"model.llm.path={SMOLLM2}")
    state = {name: weight for name, weight in expected.state_dict().items()}
    for name, weight in state.items():
        ours = model.state_dict()[f"llm.network.{name}"]
        torch.testing.assert_close(ours, weight, atol=1e-6, rtol=0)
    ids = torch.randint(0, 49152, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(logits(model, ids), expected(ids).logits, atol=1e-3, rtol=1e-4)
