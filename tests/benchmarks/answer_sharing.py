"""CPU time of a GRPO step's answers with one memory of the video for all, or with one for each.

    python -m tests.benchmarks.answer_sharing [--frames 60] [--answers 8] [--rounds 5]

The model is that of `conf/tiny.yaml` with random weights. Both ways sample the answers in one batch
and backpropagate their log-probabilities; the frames are noise. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Generator

from lit_hour.config.load import load_config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import end_of_turn_id, load_tokenizer
from lit_hour.training.objectives.answer_log_probs import (
    build_prompts,
    compute_log_probs,
    encode_frames_once,
)
from lit_hour.training.objectives.rollouts import GroupSampler
from lit_hour.types import Batch, Frames, Question, Sample
from lit_hour.weights.pretrained import config_for_new_run, pretrained_tokenizer
from tests import CONF

QUESTION = Question("1", "", "open_ended", "Which color does the circle have?", "red")
MAX_NEW_TOKENS = 12


def main() -> None:
    """Print the median CPU seconds of both ways, and their ratio with its range over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("frames", 60), ("answers", 8), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    config = config_for_new_run(load_config(CONF / "tiny.yaml"))
    folder = pretrained_tokenizer(config)
    assert folder is not None
    tokenizer = load_tokenizer(folder)
    processor = HourLLaVAProcessor(tokenizer, config.text, config.model.memaug)
    torch.manual_seed(0)
    model = HourLLaVA.from_config(config, len(tokenizer)).train()
    model.vision.requires_grad_(False)
    side = config.video.image_size
    images = torch.randint(0, 256, (options.frames, 3, side, side), dtype=torch.uint8)
    video = Frames(images, torch.arange(float(options.frames)))
    conversation = build_conversation([QUESTION], config.text)
    example = processor.build_example(
        Sample("noise", "", float(options.frames), video, (conversation,))
    )
    batches = {  # how many answers each memory has
        options.answers: processor.collate([example]),
        1: processor.collate([example] * options.answers),
    }
    seconds: dict[int, list[float]] = {num: [] for num in batches}
    for round_index in range(options.rounds + 1):
        for num_answers, batch in batches.items():
            started = time.process_time()
            learn_answers(model, batch, num_answers, end_of_turn_id(tokenizer))
            if round_index:  # the first round warms up
                seconds[num_answers].append(time.process_time() - started)
    shared, separate = seconds[options.answers], seconds[1]
    ratios = sorted(one / other for one, other in zip(shared, separate, strict=True))
    print(
        f"{options.frames} frames, {options.answers} answers: one memory"
        f" {statistics.median(shared):.2f} s, one for each {statistics.median(separate):.2f} s;"
        f" ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def learn_answers(model: HourLLaVA, batch: Batch, num_answers: int, end_id: int) -> None:
    """Sample answers to each text of a batch, and backpropagate their log-probabilities."""
    num_texts = len(batch.visual_of_text)
    prompts = build_prompts(
        model,
        encode_frames_once(model, batch),
        [Generator().manual_seed(0) for _ in range(num_texts)],
    )
    generators = [Generator().manual_seed(index) for index in range(num_texts)]
    sampler = GroupSampler(generators, num_answers, model.llm.vocab_size, 1.0)
    tokens = model.llm.generate(
        left_pad_prompts(prompts), MAX_NEW_TOKENS, end_id, select=sampler, num_copies=num_answers
    )
    ids = torch.stack(list(tokens), dim=1)  # (answers, tokens)
    groups = [list(group) for group in ids.split(num_answers)]
    log_probs, _ = compute_log_probs(model, prompts, groups)
    model.zero_grad()
    (-log_probs.of_answers.mean()).backward()


if __name__ == "__main__":
    main()
