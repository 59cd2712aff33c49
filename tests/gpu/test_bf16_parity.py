"""The model in bf16 against the recordings of the published model, which are float32."""

import copy
from pathlib import Path

import pytest
import torch

from lit_hour.inference.precision import cast_weights
from tests.model.published_model import MODEL_CASES, published_model, read_case

pytestmark = pytest.mark.gpu

# Relative to the norm of the recorded values. Weights rounded to bf16 alone change the logits by
# about 0.5%; the rest is rounding within the layers.
EMBEDDINGS, LOGITS, LOSS = 2e-2, 3e-2, 1e-2


@pytest.mark.parametrize("name", MODEL_CASES)
def test_bf16_model_equals_the_recordings_within_its_rounding(
    golden: Path, device: torch.device, name: str
) -> None:
    case = read_case(golden, name)
    model = copy.deepcopy(published_model(golden, "_".join(name.split("_")[:2])))
    cast_weights(model, torch.bfloat16)
    model.to(device)
    batch = case.batch.to(device)
    with torch.no_grad():
        inputs = model.build_inputs(batch, model.build_repositories(batch.visuals))
        logits, loss = model.llm.logits(inputs), model.llm.loss(inputs)
    texts, tokens = case.recorded["logits_positions"].T
    pairs = [
        (inputs.embeddings.cpu(), case.recorded["inputs_embeds"], EMBEDDINGS),
        (logits.cpu()[texts, tokens], case.recorded["logits_at_positions"], LOGITS),
    ]
    for found, expected, tolerance in pairs:
        difference = float((found.float() - expected).norm() / expected.norm())
        print(f"\n{name}: {difference:.1e}")
        assert difference < tolerance
    if not name.endswith("prompt_only"):
        assert float(loss) == pytest.approx(float(case.recorded["loss"]), rel=LOSS)
