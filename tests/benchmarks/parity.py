"""Deviation of the model from the published one: `python -m tests.benchmarks.parity`.

Prints the largest deviation from the recorded outputs, by kind of output. The weights are converted
by `lit_hour.weights`. The recordings are those of the parity tests; missing ones are listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
from PIL import Image
from torch import Tensor

from lit_hour.media.transforms import resize_image
from lit_hour.model.vision_encoder import VisionEncoder
from tests import REPOSITORY
from tests.helpers.golden import link_recordings
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

open_clip.add_model_config(REPOSITORY / "tests/model/towers")

Deviations = dict[str, list[float]]


def max_deviation(output: Tensor, expected: Tensor) -> float:
    return float((output.detach() - expected).abs().max())


def relative_deviation(output: Tensor, expected: Tensor) -> float:
    return max_deviation(output, expected) / float(expected.abs().max())


def available(golden: Path, names: Iterable[str]) -> Iterator[str]:
    """Iterate over the recordings that are there; print the names of the others."""
    for name in names:
        if (golden / f"{name}.safetensors").exists():
            yield name
        else:
            print(f"The large recording {name} is not beside the checkout: left out.")


def measure_memaug(golden: Path, deviations: Deviations) -> None:
    for name in available(golden, MEMAUG_FILES):
        memaug, recorded, _ = published_memaug(golden, name)
        query, memory = recorded["x_q"], recorded["x_kv"]
        for variant in MEMAUG_VARIANTS:
            output = augment(memaug, query, memory, *memaug_positions(recorded, variant))
            deviations["MemAug alone, float32"].append(
                max_deviation(output, recorded[f"{variant}/output"])
            )
        memaug, query, memory = memaug.double(), query.double(), memory.double()
        for variant in MEMAUG_VARIANTS:
            output = augment(memaug, query, memory, *memaug_positions(recorded, variant))
            deviations["MemAug alone, float64"].append(
                max_deviation(output, recorded[f"{variant}/output_f64"])
            )


def measure_model(golden: Path, deviations: Deviations) -> None:
    for name in available(golden, MODEL_CASES):
        case = read_case(golden, name)
        model = published_model(golden, "_".join(name.split("_")[:2]))
        recorded = case.recorded
        with torch.no_grad():
            inputs = model.build_inputs(case.batch, model.build_repositories(case.batch.visuals))
            logits, loss = model.llm.logits(inputs), model.llm.loss(inputs)
        texts, positions = recorded["logits_positions"].T
        deviations["inputs_embeds"].append(
            max_deviation(inputs.embeddings, recorded["inputs_embeds"])
        )
        deviations["logits"].append(
            max_deviation(logits[texts, positions], recorded["logits_at_positions"])
        )
        if not name.endswith("prompt_only"):
            deviations["loss"].append(max_deviation(loss, recorded["loss"]))
        gradients = {
            key.removeprefix("grad/"): value
            for key, value in recorded.items()
            if key.startswith("grad/")
        }
        if gradients:
            model.zero_grad()
            model(case.batch).loss.backward()
        for key, expected in translate(gradients, model).items():
            gradient = model.get_parameter(key).grad
            assert gradient is not None
            deviations["gradients of the loss, relative to the largest entry"].append(
                relative_deviation(gradient, expected)
            )


def measure_images(golden: Path, deviations: Deviations) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    for name in IMAGE_CASES:
        repository = image_repository(sidecar["cases"][name], recorded["image_newline"])
        tokens = torch.stack(
            [repository.tokens[indices] for indices in kept_indices(repository)]
        )  # (placeholders, kept, 4)
        expected = recorded[f"{name}/q_features"]
        deviations["query of one image, of tiles and of several"].append(
            max_deviation(tokens.view(expected.shape), expected)
        )


def measure_tower(golden: Path, deviations: Deviations) -> None:
    recorded, _ = read(golden, "siglip_tiny")
    prefix = "state/vision_tower.vision_model."
    weights = {
        name.removeprefix(prefix): weight
        for name, weight in recorded.items()
        if name.startswith(prefix)
    }
    encoder = load_siglip(VisionEncoder(SIGLIP), weights)
    image = resize_image(Image.fromarray(recorded["image_uint8"].numpy()), 384)
    output = encoder.encode_images(image[None], pooled=False)  # (1, patches, dim)
    deviations["patch tokens of the vision tower, relative to the largest entry"].append(
        relative_deviation(output, recorded["output"])
    )


def main() -> None:
    """Measure every kind of output, and print a table."""
    deviations: Deviations = defaultdict(list)
    with TemporaryDirectory() as folder:
        golden = link_recordings(Path(folder))
        for measure in (measure_memaug, measure_model, measure_images, measure_tower):
            measure(golden, deviations)
    print("| what is compared | comparisons | largest deviation |\n|---|---|---|")
    for name, values in deviations.items():
        print(f"| {name} | {len(values)} | {max(values):.1e} |")


if __name__ == "__main__":
    main()
