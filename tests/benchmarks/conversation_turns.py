"""Time to the first token of a further turn, with and without the KV cache of the turns before it.

    python -m tests.benchmarks.conversation_turns RUN [MINUTES]

The video is random frames, one per second, 60 minutes by default. Turns with and without the cache
alternate, in conversations of their own.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.types import Frames, Message

NUM_TURNS = 8
OVERRIDES = ("text.memaug_question_scope=first", "video.max_frames=36000")


def main(run: Path, minutes: float) -> None:
    """Print the median times, and the largest difference between the answers."""
    cached = VideoPredictor.from_run(run, device="cpu", overrides=OVERRIDES)
    serving = replace(cached.config.serving, prefix_cache_gb=0.0)
    config = replace(cached.config, serving=serving)
    anew = VideoPredictor(config, cached.model, cached.processor)
    num_frames, side = round(60 * minutes), config.video.image_size
    images = torch.randint(0, 256, (num_frames, 3, side, side), dtype=torch.uint8)
    frames = Frames(images, torch.arange(num_frames).float())  # (frames, 3, side, side), (frames,)
    memory = cached.encode_visual(frames, float(num_frames), "random frames")
    conversations: dict[str, tuple[VideoPredictor, list[Message]]] = {
        "anew": (anew, []),
        "cached": (cached, []),
    }
    seconds: dict[str, list[float]] = {"anew": [], "cached": []}
    for turn in range(NUM_TURNS):
        answers = [ask(*conversations[kind], memory, turn) for kind in seconds]
        assert answers[0].text == answers[1].text
        for kind, answer in zip(seconds, answers, strict=True):
            if turn:  # the first turn has nothing before it
                seconds[kind].append(answer.seconds["first_token"])
    print(
        f"| {num_frames} frames, {answers[0].num_prompt_tokens} tokens | first token |\n|---|---|"
    )
    for kind, values in seconds.items():
        print(f"| {kind} | {1000 * median(values):.0f} ms ({NUM_TURNS - 1} turns) |")
    print(f"{cached.prefixes.num_bytes / 1e6:.1f} MB of keys, values and embeddings")


def ask(
    predictor: VideoPredictor, history: list[Message], memory: VideoMemory, turn: int
) -> Answer:
    """Ask the next question of a conversation, and add it and its answer to the history."""
    question = f"What happens after the {turn}. time that something moves?"
    *_, answer = predictor.generate(memory, question, history)
    assert isinstance(answer, Answer)
    history += [Message("user", question), Message("assistant", answer.text)]
    return answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
