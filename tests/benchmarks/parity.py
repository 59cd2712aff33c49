"""Deviation of the model from the published one: `python -m tests.benchmarks.parity`.

Prints the largest deviation from the recorded outputs, by kind of output. The weights are converted
by `lit_hour.weights`. Needs the recordings that the parity tests use.
"""

from __future__ import annotations

from collections import defaultdict

import open_clip
import torch
from PIL import Image
from torch import Tensor

from lit_hour.media.image_reader import to_square_tensor
from lit_hour.model.vision_encoder import VisionEncoder
from tests import REPOSITORY, SHARED
from tests.helpers.siglip_tower import SIGLIP, load_siglip
from tests.model.published_model import (
    IMAGE_CASES,
    MEMAUG_FILES,
    MEMAUG_VARIANTS,
    MODEL_CASES,
    image_repository,
    kept_indices,
    memaug_positions,
    published_memaug,
    published_model,
    read,
    read_case,
    translate,
)
from tests.model.toy_model import augment

GOLDEN = SHARED / "reference/golden"
open_clip.add_model_config(REPOSITORY / "tests/model/towers")

Deviations = dict[str, list[float]]


def largest(found: Tensor, expected: Tensor) -> float:
    return float((found.detach() - expected).abs().max())


def measure_memaug(deviations: Deviations) -> None:
    for name in MEMAUG_FILES:
        memaug, recorded, _ = published_memaug(GOLDEN, name)
        for variant in MEMAUG_VARIANTS:
            positions = memaug_positions(recorded, variant)
            output = augment(memaug, recorded["x_q"], recorded["x_kv"], *positions)
            deviations["MemAug alone, float32"].append(
                largest(output, recorded[f"{variant}/output"])
            )
        for variant in MEMAUG_VARIANTS:
            exact = augment(
                memaug.double(),
                recorded["x_q"].double(),
                recorded["x_kv"].double(),
                *memaug_positions(recorded, variant),
            )
            deviations["MemAug alone, float64"].append(
                largest(exact, recorded[f"{variant}/output_f64"])
            )


def measure_model(deviations: Deviations) -> None:
    for name in MODEL_CASES:
        case, model = (
            read_case(GOLDEN, name),
            published_model(GOLDEN, "_".join(name.split("_")[:2])),
        )
        with torch.no_grad():
            inputs = model.build_inputs(case.batch, model.build_repositories(case.batch.visuals))
            logits, loss = model.llm.logits(inputs), model.llm.loss(inputs)
        texts, places = case.recorded["logits_positions"].T
        deviations["inputs_embeds"].append(
            largest(inputs.embeddings, case.recorded["inputs_embeds"])
        )
        deviations["logits"].append(
            largest(logits[texts, places], case.recorded["logits_at_positions"])
        )
        if not name.endswith("prompt_only"):
            deviations["loss"].append(largest(loss, case.recorded["loss"]))
        gradients = {
            key.removeprefix("grad/"): value
            for key, value in case.recorded.items()
            if key.startswith("grad/")
        }
        if gradients:
            model.zero_grad()
            model(case.batch).loss.backward()
        for key, gradient in translate(gradients, model).items():
            found = model.get_parameter(key).grad
            assert found is not None
            deviations["gradients of the loss, of the largest entry"].append(
                largest(found, gradient) / float(gradient.abs().max())
            )


def measure_pictures(deviations: Deviations) -> None:
    recorded, sidecar = read(GOLDEN, "images_uniform")
    for name in IMAGE_CASES:
        repository = image_repository(sidecar["cases"][name], recorded["image_newline"])
        tokens = torch.stack(
            [repository.tokens[places] for places in kept_indices(repository)]
        )  # (placeholders, kept, 4)
        expected = recorded[f"{name}/q_features"]
        deviations["query of one picture, of tiles and of several"].append(
            largest(tokens.view(expected.shape), expected)
        )


def measure_tower(deviations: Deviations) -> None:
    recorded, _ = read(GOLDEN, "siglip_tiny")
    prefix = "state/vision_tower.vision_model."
    weights = {
        name.removeprefix(prefix): weight
        for name, weight in recorded.items()
        if name.startswith(prefix)
    }
    encoder = load_siglip(VisionEncoder(SIGLIP), weights)
    picture = to_square_tensor(
        Image.fromarray(recorded["image_uint8"].numpy()), 384
    )  # (3, 384, 384)
    found, expected = encoder.encode_images(picture[None], pooled=False), recorded["output"]
    deviations["patch tokens of the vision tower, of the largest entry"].append(
        largest(found, expected) / float(expected.abs().max())
    )


def main() -> None:
    """Measure all and print them."""
    deviations: Deviations = defaultdict(list)
    for measure in (measure_memaug, measure_model, measure_pictures, measure_tower):
        measure(deviations)
    print("| what is compared | comparisons | largest deviation |\n|---|---|---|")
    for name, values in deviations.items():
        print(f"| {name} | {len(values)} | {max(values):.1e} |")


if __name__ == "__main__":
    main()
