"""Align a new projector with words, on the tokens of single frames: `write_aligned_run`.

The vision encoder's own classifier, which its package has beside the tower, is the teacher: its
probabilities of ImageNet's classes become probabilities of the categories, by the photographs of
training. The words of a category, and `NOTHING` for footage, are what a projected token is near to.
It takes half a minute of one core, and neither MemAug nor the language model runs. The attention of
MemAug to the memory starts as a reader of words that leaves footage out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.config.load import save_config
from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.io.packaged_weights import EFFICIENTNET_LITE0, find_packaged_weights
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import COSINE_SCALE
from lit_hour.model.vision_encoder import Projector
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer
from lit_hour.weights.convert import CONVERTED
from lit_hour.weights.efficientnet import CLASSIFIER, read_efficientnet
from lit_hour.weights.pretrained import (
    config_for_new_run,
    load_pretrained_weights,
    pretrained_tokenizer,
)
from lit_hour.weights.safetensors_writer import complete_or_absent, write_weights
from tests.benchmarks.small_photos.stored_frames import StoredFrames

NOTHING = "nothing"  # the word for a frame of footage
NUM_STEPS, TOKENS_PER_STEP, FOOTAGE_TOKENS_PER_STEP = 400, 384, 96
LEARNING_RATE, WEIGHT_DECAY = 1.5e-3, 0.05
LABEL_WEIGHT = 0.3  # of the true category, beside the classifier's
LEAST_SHARE = 0.4  # of a token that is mixed with another one
HIDDEN_STD = 0.5  # of the projector's first layer: nearly linear in its GELU
COPY_SCALE = 3.0  # of what the attention to the memory returns, beside the token itself
START_LOGIT = 35.0  # by which tokens of footage get less attention than words
UNKNOWN = 0.02  # added to the frames of a class, so that a rare class counts less


class Classifier(NamedTuple):
    """The classifier of the vision encoder, for categories.

    Attributes:
        weight: `(classes, vision_dim)`.
        bias: `(classes,)`.
        categories: `(categories, classes)`, the probability of a category given a class; the rest
            is that of `NOTHING`.
    """

    weight: Tensor
    bias: Tensor
    categories: Tensor

    def probabilities(self, tokens: Tensor) -> Tensor:
        """Return the probabilities of the categories and of `NOTHING`, `(tokens, categories + 1)`.

        Args:
            tokens: `(tokens, vision_dim)`.
        """
        classes = F.linear(tokens, self.weight, self.bias).softmax(dim=1)  # (tokens, classes)
        known = classes @ self.categories.T  # (tokens, categories)
        return torch.cat([known, 1 - known.sum(dim=1, keepdim=True)], dim=1)


class LabeledFrames:
    """Frames of photographs with their categories, and frames of footage.

    Attributes:
        tokens: `(frames, tokens, vision_dim)`.
        labels: `(frames,)`, the index of the category.
        footage: `(frames, tokens, vision_dim)`.
    """

    def __init__(self, frames: StoredFrames, categories: list[str]) -> None:
        tokens, labels = [], []
        for path, showings in frames.showings.items():
            category = categories.index(Path(path).parent.name.replace("_", " "))
            for showing in showings:
                tokens.append(showing)
                labels += [category] * len(showing)
        self.tokens, self.labels = torch.cat(tokens), torch.tensor(labels)
        self.footage = torch.cat(frames.footage)


def write_aligned_run(
    run: Path, config: Config, train: StoredFrames, unseen: StoredFrames, categories: list[str]
) -> None:
    """Write a run with an aligned projector and a new MemAug, and print what frames are named.

    Args:
        run: directory to create.
        config: conf/experiment/small/photos.yaml.
        train: frames with the photographs of training.
        unseen: frames with those of validation.
        categories: names.
    """
    torch.manual_seed(0)
    config = config_for_new_run(config)
    source = pretrained_tokenizer(config)
    assert source is not None
    tokenizer = load_tokenizer(source)
    model = HourLLaVA.from_config(config, len(tokenizer))
    load_pretrained_weights(model, config)
    words = mean_words(model, tokenizer, [*categories, NOTHING])
    labeled = LabeledFrames(train, categories)
    classifier = read_classifier(labeled, len(categories))
    start_from_classifier(model.projector, classifier, labeled)
    align(model.projector, classifier, labeled, words)
    describe_accuracy(model.projector, LabeledFrames(unseen, categories), words[:-1])
    scale_projector(model.projector, labeled)
    start_memory_attention(model, words)
    state = {name: one for name, one in model.state_dict().items() if "lora_" not in name}
    state = {name.replace(".base_layer.", "."): one for name, one in state.items()}
    with complete_or_absent(run, sum(one.nbytes for one in state.values())) as folder:
        unfinished = RunDir(folder)
        checkpoint = unfinished.checkpoints / CONVERTED
        checkpoint.mkdir(parents=True)
        write_weights(checkpoint, ((name, one.clone()) for name, one in state.items()))
        copy_tokenizer(source, unfinished.tokenizer)
        plain = plain_settings(config)
        save_config(plain, checkpoint.with_suffix(".yaml"))
        save_config(plain, unfinished.config)


def plain_settings(config: Config) -> Config:
    """Return the settings of a run that has all weights itself, without adapters."""
    llm = replace(config.model.llm, path="", lora=LoraConfig())
    vision = replace(config.model.vision, weights="")
    return replace(config, model=replace(config.model, llm=llm, vision=vision))


def mean_words(model: HourLLaVA, tokenizer: Tokenizer, names: list[str]) -> Tensor:
    """Return the mean direction of the tokens of each name, `(names, dim)`, of length 1."""
    embedding = F.normalize(model.llm.network.get_input_embeddings().weight.detach(), dim=-1)
    ids = [tokenizer.encode(name, add_special_tokens=False) for name in names]
    return F.normalize(torch.stack([embedding[one].mean(dim=0) for one in ids]), dim=-1)


def read_classifier(frames: LabeledFrames, num_categories: int) -> Classifier:
    """Read the classifier of EfficientNet-Lite0, and count which classes show which category."""
    tensors = read_efficientnet(find_packaged_weights(EFFICIENTNET_LITE0, "model.vision.weights"))
    weight, bias = (tensors[name] for name in CLASSIFIER)
    classes = F.linear(frames.tokens.float().mean(dim=1), weight, bias).softmax(dim=1)
    counts = torch.zeros(num_categories, len(bias)).index_add_(0, frames.labels, classes)
    return Classifier(weight, bias, counts / (counts.sum(dim=0, keepdim=True) + UNKNOWN))


@torch.no_grad()
def start_from_classifier(
    projector: Projector, classifier: Classifier, frames: LabeledFrames
) -> None:
    """Let the first layer return the principal directions of the classifier, in place."""
    first: Any = projector.layers[0]
    weight = classifier.weight - classifier.weight.mean(dim=0)  # (classes, vision_dim)
    _, scales, directions = torch.linalg.svd(weight, full_matrices=False)
    num = first.out_features
    rows = directions[:num] * (scales[:num] / scales[0]).sqrt()[:, None]  # (dim, vision_dim)
    mean = frames.tokens.float().mean(dim=(0, 1))  # (vision_dim,)
    hidden = (frames.tokens.float().mean(dim=1) - mean) @ rows.T  # (frames, dim)
    rows = rows * HIDDEN_STD / hidden.std()
    first.weight.copy_(rows)
    first.bias.copy_(-rows @ mean)


def align(
    projector: nn.Module, classifier: Classifier, frames: LabeledFrames, words: Tensor
) -> None:
    """Train a projector in place; the last of `words` `(names, dim)` is for footage."""
    optimizer = torch.optim.AdamW(projector.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, NUM_STEPS)
    generator = torch.Generator().manual_seed(0)
    shown = frames.tokens.flatten(0, 1)  # (tokens, vision_dim)
    labels = frames.labels.repeat_interleave(frames.tokens.shape[1])  # (tokens,)
    footage = frames.footage.flatten(0, 1)  # (tokens, vision_dim)
    nothing = torch.full((FOOTAGE_TOKENS_PER_STEP,), len(words) - 1)
    for step in range(NUM_STEPS):
        first = torch.randint(len(shown), (TOKENS_PER_STEP,), generator=generator)
        second = torch.randint(len(footage), (FOOTAGE_TOKENS_PER_STEP,), generator=generator)
        tokens = torch.cat([shown[first], footage[second]]).float()  # (batch, vision_dim)
        truth = F.one_hot(torch.cat([labels[first], nothing]), len(words)).float()
        other = torch.randperm(len(tokens), generator=generator)
        share = 1 - torch.rand(len(tokens), 1, generator=generator) * (1 - LEAST_SHARE)
        share[::2] = 1  # half of the tokens are not mixed
        tokens = share * tokens + (1 - share) * tokens[other]
        truth = share * truth + (1 - share) * truth[other]
        taught = classifier.probabilities(tokens)  # (batch, names)
        target = LABEL_WEIGHT * truth + (1 - LABEL_WEIGHT) * taught
        similarity = F.normalize(projector(tokens), dim=-1) @ words.T  # (batch, names)
        loss = F.cross_entropy(COSINE_SCALE * similarity, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.2f}", flush=True)


@torch.inference_mode()
def describe_accuracy(projector: nn.Module, frames: LabeledFrames, words: Tensor) -> None:
    """Print how many unseen frames are named, among all categories and among four."""
    projected = F.normalize(projector(frames.tokens.float()), dim=-1)  # (frames, tokens, dim)
    similarity = projected.mean(dim=1) @ words.T  # (frames, categories)
    generator = torch.Generator().manual_seed(0)
    offsets = torch.stack(
        [torch.randperm(len(words) - 1, generator=generator)[:3] + 1 for _ in frames.labels]
    )  # (frames, 3)
    others = (frames.labels[:, None] + offsets) % len(words)  # (frames, 3)
    right = similarity.gather(1, frames.labels[:, None])  # (frames, 1)
    top = (similarity.argmax(dim=1) == frames.labels).float().mean()
    four = (right > similarity.gather(1, others)).all(dim=1).float().mean()
    print(f"{len(frames.labels)} unseen frames: {top:.1%} of all, {four:.1%} of four", flush=True)


@torch.no_grad()
def start_memory_attention(model: HourLLaVA, words: Tensor) -> None:
    """Let the attention of each block to the memory start as a reader of words, in place.

    Its values are the principal directions of the words. One dimension of the keys, which is not
    rotated, is the contrast of `NOTHING` to the other words, and that of all queries is constant,
    so that tokens of footage get little of the attention. The rest stays random.

    Args:
        model: its projected tokens have a length of about sqrt(dim).
        words: `(names, dim)` of length 1, that of `NOTHING` last.
    """
    contrast = F.normalize(words[-1] - words[:-1].mean(dim=0), dim=0)  # (dim,)
    model.frame_newline.copy_(words[-1] * len(contrast) ** 0.5)  # a short token would get attention
    difference = float(contrast @ words[-1] - (words[:-1] @ contrast).mean())  # of two words
    for block in model.memaug.blocks:
        attention: Any = block.cross_attention
        head_dim, num_directions = attention.head_dim, attention.value.out_features
        _, _, directions = torch.pca_lowrank(words, min(num_directions, len(words)), center=False)
        attention.value.weight.zero_()
        attention.value.weight[: directions.shape[1]] = directions.T  # (directions, dim)
        group = attention.output.in_features // num_directions  # query heads of a key/value head
        heads = attention.value.weight.unflatten(0, (-1, head_dim))  # (kv_heads, head_dim, dim)
        repeated = heads.repeat_interleave(group, dim=0).flatten(0, 1)  # (heads * head_dim, dim)
        attention.output.weight.copy_(COPY_SCALE * repeated.T / group)
        attention.key.weight[head_dim - 1 :: head_dim] = -contrast
        attention.query.weight[head_dim - 1 :: head_dim] = 0
        length = attention.query.in_features**0.5
        logit = START_LOGIT * head_dim**0.5 / (difference * length)
        attention.query.bias[head_dim - 1 :: head_dim] = logit


@torch.no_grad()
def scale_projector(projector: Projector, frames: LabeledFrames) -> None:
    """Scale the tokens of footage to a mean length of sqrt(dim), in place."""
    last: Any = projector.layers[-1]
    length = projector(frames.footage.float()).norm(dim=-1).mean()  # ()
    for parameter in (last.weight, last.bias):
        parameter.mul_(last.out_features**0.5 / length)
