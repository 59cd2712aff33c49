"""The whole model against the published one: same weights and inputs, float32, the description's tolerances."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.multimodal_inputs import LLMInputs, truncate_to_prompts
from tests.model.published import Case, published_model, read_case, translate

CASES = (
    "full_tied_single_video",
    "full_tied_text_only",
    "full_tied_multi_turn",
    "full_untied_single_video",
    "full_untied_batch_two",
    "full_untied_text_only",
    "full_untied_batch_text_video",
    "full_untied_multi_turn",
    "full_untied_multi_turn_qwen_labels",
    "full_untied_prompt_only",
)
EMBEDDINGS, LOGITS, LOSS = 1e-4, 2e-4, 1e-5  # absolute tolerances
GRADIENT = 2e-5  # of the largest entry

Models = dict[str, HourLLaVA]


@pytest.fixture(scope="module")
def models(golden: Path) -> Models:
    return {weights: published_model(golden, weights) for weights in ("full_tied", "full_untied")}


def model_of(models: Models, name: str) -> HourLLaVA:
    return models["_".join(name.split("_")[:2])]


def read(model: HourLLaVA, case: Case) -> LLMInputs:
    return model.build_inputs(case.batch, model.build_repositories(case.batch.visuals))


@pytest.mark.parametrize("name", CASES)
def test_the_language_model_reads_what_the_published_one_reads(
    golden: Path, models: Models, name: str
) -> None:
    case = read_case(golden, name)
    with torch.no_grad():
        inputs = read(model_of(models, name), case)
    assert torch.equal(inputs.labels, case.recorded["new_labels"])
    assert torch.equal(inputs.attention_mask, case.recorded["new_attention_mask"].bool())
    torch.testing.assert_close(
        inputs.embeddings, case.recorded["inputs_embeds"], atol=EMBEDDINGS, rtol=0
    )


@pytest.mark.parametrize("name", CASES)
def test_logits_and_loss_are_the_published_ones(golden: Path, models: Models, name: str) -> None:
    case, model = read_case(golden, name), model_of(models, name)
    with torch.no_grad():
        inputs = read(model, case)
        logits, loss = model.llm.logits(inputs), float(model.llm.loss(inputs))
    recorded, is_real = case.recorded, inputs.attention_mask
    texts, places = recorded["logits_positions"].T
    torch.testing.assert_close(
        logits[texts, places], recorded["logits_at_positions"], atol=LOGITS, rtol=0
    )
    torch.testing.assert_close(
        logits.logsumexp(-1)[is_real], recorded["logits_logsumexp"][is_real], atol=LOGITS, rtol=0
    )
    assert torch.equal(logits.argmax(-1)[is_real], recorded["logits_argmax"][is_real])
    if name.endswith("prompt_only"):
        assert (
            recorded["loss"].isnan().all() and loss == 0
        )  # there a mean of nothing, here a batch that teaches nothing
    else:
        assert loss == pytest.approx(float(recorded["loss"]), abs=LOSS, rel=0)


@pytest.mark.parametrize("name", CASES)
def test_memaug_is_asked_what_the_published_one_is_asked(
    golden: Path, models: Models, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case, model = read_case(golden, name), model_of(models, name)
    calls: list[tuple[Tensor, ...]] = []
    each = model.memaug.forward_many

    def record(
        queries: list[Tensor],
        memories: list[Tensor],
        memory_of_query: Sequence[int],
        query_positions: list[Tensor],
        memory_positions: list[Tensor],
    ) -> list[Tensor]:
        seen = each(queries, memories, memory_of_query, query_positions, memory_positions)
        calls.extend(
            zip(
                queries,
                [memories[place] for place in memory_of_query],
                query_positions,
                seen,
                strict=True,
            )
        )
        return seen

    monkeypatch.setattr(model.memaug, "forward_many", record)
    with torch.no_grad():
        read(model, case)
    compared = 0
    for text, (query, memory, query_positions, output) in enumerate(calls):
        found = {"q_position_ids": query_positions, "x_q": query, "out": output}
        for key, tensor in found.items():
            expected = case.recorded.get(f"sample{text}/memaug_{key}")
            if expected is not None and case.sidecar["videos"][text] != "dummy":
                torch.testing.assert_close(tensor, expected, atol=EMBEDDINGS, rtol=0)
                compared += 1
        if case.sidecar["videos"][text] != "dummy":
            facts = case.sidecar["samples"][text]
            assert (len(query), len(memory)) == (facts["memaug_query_rows"], facts["memory_tokens"])
    assert compared or "text_only" in name


@pytest.mark.parametrize("name", ("full_tied_single_video", "full_untied_single_video"))
def test_gradients_are_the_published_ones(golden: Path, models: Models, name: str) -> None:
    case, model = read_case(golden, name), model_of(models, name)
    model.zero_grad()
    model(case.batch).backward()
    prefix = "grad/"
    recorded = {
        key.removeprefix(prefix): value
        for key, value in case.recorded.items()
        if key.startswith(prefix)
    }
    expected = translate(recorded, model)
    assert len(expected) >= 8
    for key, gradient in expected.items():
        found = model.get_parameter(key).grad
        torch.testing.assert_close(
            found, gradient, atol=GRADIENT * float(gradient.abs().max()), rtol=0
        )


def test_answers_are_the_published_ones(golden: Path, models: Models) -> None:
    case, model = read_case(golden, "full_untied_prompt_only"), models["full_untied"]
    expected = case.recorded["greedy_tokens"]
    with torch.no_grad():
        prompt = truncate_to_prompts(read(model, case))
    answer = torch.stack(
        list(model.llm.generate(prompt, expected.shape[1], end_id=-1)), dim=1
    )  # (texts, tokens)
    assert torch.equal(answer, expected)
