"""The whole model against the published one: same weights and inputs, in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.memaug import MemAugQuery
from lit_hour.model.multimodal_inputs import left_pad_prompts
from tests.model.published_model import (
    MODEL_CASES,
    Case,
    published_model,
    read_case,
    translate,
)

EMBEDDINGS, LOGITS, LOSS = 1e-4, 2e-4, 1e-5  # absolute tolerances
GRADIENT = 2e-5  # relative to the largest entry

Models = dict[str, HourLLaVA]


@pytest.fixture(scope="module")
def models(golden: Path) -> Models:
    return {weights: published_model(golden, weights) for weights in ("full_tied", "full_untied")}


def model_of(models: Models, name: str) -> HourLLaVA:
    return models["_".join(name.split("_")[:2])]


def build_inputs(model: HourLLaVA, case: Case) -> LLMInputs:
    return model.build_inputs(case.batch, model.build_repositories(case.batch.visuals))


@pytest.mark.parametrize("name", MODEL_CASES)
def test_inputs_of_the_language_model_equal_published(
    golden: Path, models: Models, name: str
) -> None:
    case = read_case(golden, name)
    with torch.no_grad():
        inputs = build_inputs(model_of(models, name), case)
    assert torch.equal(inputs.labels, case.recorded["new_labels"])
    assert torch.equal(inputs.attention_mask, case.recorded["new_attention_mask"].bool())
    torch.testing.assert_close(
        inputs.embeddings, case.recorded["inputs_embeds"], atol=EMBEDDINGS, rtol=0
    )


@pytest.mark.parametrize("name", MODEL_CASES)
def test_logits_and_loss_equal_published(golden: Path, models: Models, name: str) -> None:
    case, model = read_case(golden, name), model_of(models, name)
    with torch.no_grad():
        inputs = build_inputs(model, case)
        logits, loss = model.llm.logits(inputs), float(model.llm.loss(inputs))
    recorded, mask = case.recorded, inputs.attention_mask
    texts, tokens = recorded["logits_positions"].T
    torch.testing.assert_close(
        logits[texts, tokens], recorded["logits_at_positions"], atol=LOGITS, rtol=0
    )
    torch.testing.assert_close(
        logits.logsumexp(-1)[mask], recorded["logits_logsumexp"][mask], atol=LOGITS, rtol=0
    )
    assert torch.equal(logits.argmax(-1)[mask], recorded["logits_argmax"][mask])
    if name.endswith("prompt_only"):  # no label: NaN there, and zero here
        assert recorded["loss"].isnan().all() and loss == 0
    else:
        assert loss == pytest.approx(float(recorded["loss"]), abs=LOSS, rel=0)


@pytest.mark.parametrize("name", MODEL_CASES)
def test_queries_and_outputs_of_memaug_equal_published(
    golden: Path, models: Models, name: str
) -> None:
    case, model = read_case(golden, name), model_of(models, name)
    calls: list[tuple[MemAugQuery, Tensor, int]] = []

    def record(_: nn.Module, args: tuple[Any, ...], outputs: list[Tensor]) -> None:
        queries, repositories, repository_of_query = args
        for query, index, output in zip(queries, repository_of_query, outputs, strict=True):
            num_memory_tokens = len(repositories[index].positions)
            calls.append((query, output, num_memory_tokens))

    hook = model.memaug.register_forward_hook(record)
    with torch.no_grad():
        build_inputs(model, case)
    hook.remove()
    num_compared = 0
    for text, (query, output, num_memory_tokens) in enumerate(calls):
        if case.sidecar["videos"][text] == "dummy":
            continue
        tensors = {"q_position_ids": query.positions, "x_q": query.tokens, "out": output}
        for key, tensor in tensors.items():
            expected = case.recorded.get(f"sample{text}/memaug_{key}")
            if expected is not None:
                if key == "out":  # MemAug returns only the visual tokens
                    expected = expected[query.is_visual]
                torch.testing.assert_close(tensor, expected, atol=EMBEDDINGS, rtol=0)
                num_compared += 1
        facts = case.sidecar["samples"][text]
        assert len(query.tokens) == facts["memaug_query_rows"]
        assert num_memory_tokens == facts["memory_tokens"]
    assert num_compared or "text_only" in name


@pytest.mark.parametrize("name", ("full_tied_single_video", "full_untied_single_video"))
def test_gradients_of_the_model_equal_published(golden: Path, models: Models, name: str) -> None:
    case, model = read_case(golden, name), model_of(models, name)
    model.requires_grad_(True).zero_grad()  # the model of a loaded predictor is frozen
    model(case.batch).loss.backward()
    prefix = "grad/"
    recorded = {
        key.removeprefix(prefix): value
        for key, value in case.recorded.items()
        if key.startswith(prefix)
    }
    expected = translate(recorded, model)
    assert len(expected) >= 8
    for key, gradient in expected.items():
        tolerance = GRADIENT * float(gradient.abs().max())
        torch.testing.assert_close(model.get_parameter(key).grad, gradient, atol=tolerance, rtol=0)


def test_generated_tokens_equal_published(golden: Path, models: Models) -> None:
    case, model = read_case(golden, "full_untied_prompt_only"), models["full_untied"]
    expected = case.recorded["greedy_tokens"]
    with torch.no_grad():
        prompt = left_pad_prompts(build_inputs(model, case))
    tokens = model.llm.generate(prompt, expected.shape[1], end_id=-1)
    assert torch.equal(torch.stack(list(tokens), dim=1), expected)
