"""Tokens per second and time to the first token, side by side with `transformers serve`.

    python -m tests.benchmarks.serving_peers RUN

Both serve the language model of a run, with random weights so that no answer ends by itself, on two
threads, and both without and with continuous batching for transformers. Questions are text alone,
which both can read. 1, 4 and 16 clients stream one answer after the other; the servers take turns.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir

NUM_CLIENTS = (1, 4, 16)
TOKENS, ANSWERS_PER_CLIENT, ROUNDS, THREADS = 48, 3, 2, 2
START_SECONDS = 180.0
PORT = "{port}"  # in a command, in place of the free port
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
QUESTION = "What is red, and how many squares are there beside the star?"


@dataclass
class Measured:
    """Times of the answers of one round.

    Attributes:
        first_token_seconds: of each answer.
        num_tokens: of all answers.
        seconds: of the round.
    """

    first_token_seconds: list[float] = field(default_factory=list)
    num_tokens: int = 0
    seconds: float = 0.0


def main(run: Path) -> None:
    """Start the servers, and print the best round of each."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        random_run, exported = Path(folder) / "random_run", Path(folder) / "language_model"
        write_models(RunDir(run), random_run, exported)
        ours = [sys.executable, "-m", "lit_hour", "serve", "--run", str(random_run), "--port", PORT]
        ours += [f"generation.max_new_tokens={TOKENS}", "serving.server.max_concurrent_requests=16"]
        theirs = [str(Path(sys.executable).parent / "transformers"), "serve", str(exported)]
        theirs += ["--device", "cpu", "--host", "127.0.0.1", "--port", PORT]
        servers = {
            "lit-hour serve": (ours, "random_run"),
            "transformers serve": (theirs, str(exported)),
            "transformers serve --continuous-batching": (
                [*theirs, "--continuous-batching"],
                str(exported),
            ),
        }
        ports = {
            name: stack.enter_context(start(command)) for name, (command, _) in servers.items()
        }
        print("| server | clients | tokens/s | first token (median) |\n|---|---|---|---|")
        for num_clients in NUM_CLIENTS:
            found: dict[str, list[Measured]] = {name: [] for name in servers}
            for _ in range(ROUNDS):
                for name, (_, model) in servers.items():
                    found[name].append(measure(ports[name], model, num_clients))
            for name, rounds in found.items():
                best = max(rounds, key=lambda one: one.num_tokens / one.seconds)
                milliseconds = 1000 * median(best.first_token_seconds)
                rate = best.num_tokens / best.seconds
                print(f"| {name} | {num_clients} | {rate:.0f} | {milliseconds:.0f} ms |")


def write_models(source: RunDir, run: Path, exported: Path) -> None:
    """Write a run with a random language model, and this alone in the layout of transformers."""
    shutil.copytree(source.path, run)
    path = RunDir(run).checkpoint(None)
    checkpoint = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, weight in checkpoint["state_dict"].items():
        if "llm." in name and weight.dim() == 2:
            weight.normal_(std=0.05, generator=generator)
    torch.save(checkpoint, path)
    predictor = VideoPredictor.from_run(run, device="cpu")
    tokenizer = predictor.processor.tokenizer
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(exported)
    predictor.model.llm.network.save_pretrained(exported)


@contextmanager
def start(command: Sequence[str]) -> Iterator[int]:
    """Start a server on a free port, wait until it answers, and end it with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [argument.replace(PORT, str(port)) for argument in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as server:
        try:
            wait_until_healthy(port, server)
            yield port
        finally:
            server.terminate()


def wait_until_healthy(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: it ended, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.5)
        finally:
            connection.close()
    raise RuntimeError(f"{server.args!r} does not answer. Start it by hand to see why.")


def measure(port: int, model: str, num_clients: int) -> Measured:
    """Let clients stream answers one after the other, at the same time."""
    measured, lock = Measured(), threading.Lock()

    def ask() -> None:
        for _ in range(ANSWERS_PER_CLIENT):
            first_token_seconds, num_tokens = stream_answer(port, model)
            with lock:
                measured.first_token_seconds.append(first_token_seconds)
                measured.num_tokens += num_tokens

    stream_answer(port, model)  # loads what is loaded with the first request
    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    started = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    measured.seconds = time.perf_counter() - started
    return measured


def stream_answer(port: int, model: str) -> tuple[float, int]:
    """Return the seconds to the first token of an answer, and its number of tokens."""
    message = {"role": "user", "content": QUESTION}
    body = {"model": model, "messages": [message], "stream": True, "max_tokens": TOKENS}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    started, first_token_seconds = time.perf_counter(), 0.0
    headers = {"Content-Type": "application/json"}
    body |= {"temperature": 0, "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    num_tokens = 0
    response = connection.getresponse()
    assert response.status == 200, response.read()
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        delta = event["choices"][0]["delta"] if event["choices"] else {}
        if delta.get("content") and not first_token_seconds:
            first_token_seconds = time.perf_counter() - started
        num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
    connection.close()
    return first_token_seconds, num_tokens


if __name__ == "__main__":
    main(Path(sys.argv[1]))
