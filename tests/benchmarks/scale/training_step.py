"""Measured process: steps of stage 1 on stored features of one video.

    python -m tests.benchmarks.scale.training_step JOB LORA_RANK

MemAug and the projector learn, and with a rank above 0 also LoRA adapters of the language model.
"""

from __future__ import annotations

import sys

import lightning as L

from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.module import HourLLaVAModule
from lit_hour.weights.pretrained import config_for_new_run
from tests.benchmarks.scale.measured import Parts
from tests.benchmarks.scale.setup import Job
from tests.benchmarks.speed.step.timed_steps import take_steps

NUM_STEPS = 2  # the first starts threads and allocates memory


def main(job: Job, lora_rank: int) -> None:
    """Measure the start of a run with two steps."""
    lora = ["model.llm.lora.rank=8", "training.learning_rate.llm=1e-4"] if lora_rank else []
    config = job.config(
        job.train_frames,
        f"training.init_from={job.run}",
        f"training.max_steps={NUM_STEPS}",
        f"run.name=lora-{lora_rank}",
        *lora,
    )
    config = config_for_new_run(config)
    L.seed_everything(config.run.seed, verbose=False)
    processor = HourLLaVAProcessor(
        load_tokenizer(RunDir(job.run).tokenizer), config.text, config.model.memaug
    )
    parts = Parts()
    with parts.measure("run with two steps") as found:
        module = HourLLaVAModule(config, len(processor.tokenizer), NUM_STEPS)
        steps = take_steps(config, processor, module, keep_batches=False)
        last = steps.seconds[-1]
        found["value"] = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in last.items())
        print(f"losses {steps.losses}", file=sys.stderr)


if __name__ == "__main__":
    main(Job.from_json(sys.argv[1]), int(sys.argv[2]))
