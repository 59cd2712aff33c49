"""Out of memory is answered with status 503, and the server goes on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.out_of_memory import is_out_of_memory
from lit_hour.run_dir import RunDir
from tests import REPOSITORY
from tests.server.conftest import OVERRIDES
from tests.server.helpers import RunningServer, run_server
from tests.weights.memory_probe import process_memory

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
)
MEGABYTE = 1_000_000


def test_only_failed_allocations_are_out_of_memory() -> None:
    assert all(map(is_out_of_memory, (*ERRORS, OSError(12, "Cannot allocate memory"))))
    others = (RuntimeError("shape mismatch"), OSError(28, "No space left"), ValueError("memory"))
    assert not any(map(is_out_of_memory, others))


class RefusingAllocator:
    """Raises an error in a method of the model while `error` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.error: Exception | None = None
        method: Callable[..., Any] = getattr(owner, name)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            if self.error is not None:
                raise self.error
            return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, refuse)


def test_answer_out_of_memory_is_a_503_that_names_the_settings(
    server: RunningServer, video: str, predictor: VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = server.chat(video, "What is shown?").json()["choices"]
    allocator = RefusingAllocator(monkeypatch, predictor.model.llm, "embed")
    for error in ERRORS:
        allocator.error = error
        response = server.chat(video, "What is shown?")
        assert response.status == 503, error
        assert response.json()["error"]["type"] == "server_error"
        for part in ("walk.mp4", "tokens of the video", "serving.server.max_concurrent_requests=8"):
            assert part in response.error, error
        allocator.error = None
        assert server.chat(video, "What is shown?").json()["choices"] == before
    failed = server.metric('lit_hour_generations_total{outcome="failed"}')
    assert failed >= len(ERRORS)


def test_answer_out_of_memory_during_a_stream_ends_it_with_an_error(
    server: RunningServer, video: str, predictor: VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, calls = predictor.model.llm.network, []
    forward = network.forward

    def refuse_a_late_token(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 11:
            raise ERRORS[0]
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "forward", refuse_a_late_token)
    *_, last = server.stream(video, "What is shown?")
    assert last["error"]["code"] == 503 and "video.max_frames=40" in last["error"]["message"]
    assert server.chat(video, "What is shown?").status == 200


def test_evidence_out_of_memory_is_a_503_and_the_answer_stays(
    server: RunningServer, video: str, predictor: VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    completion = server.chat(video, "What is shown?").json()["id"]
    path = f"/v1/chat/completions/{completion}/evidence"
    allocator = RefusingAllocator(monkeypatch, predictor.model.llm, "backpropagate")
    allocator.error = ERRORS[1]
    response = server.get(path)
    assert response.status == 503 and "serving.max_evidence_gb=16" in response.error
    allocator.error = None
    assert server.get(path).status == 200


def test_video_out_of_memory_is_a_503_and_can_be_sent_again(
    server: RunningServer, folder: Path, predictor: VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = RefusingAllocator(monkeypatch, predictor.model, "encode_frames")
    allocator.error = ERRORS[2]
    url = (folder / "deep er/ö#1.mp4").as_uri()
    response = server.chat(url, "What is shown?")
    assert response.status == 503, response.error
    for part in ("ö#1.mp4", "frames", "video.max_frames=40", "model.vision.encode_batch_size=2"):
        assert part in response.error
    allocator.error = None
    assert server.chat(url, "What is shown?").status == 200


def serve_below_a_limit(run: RunDir, clips: Path) -> None:
    """Serve in a process with a limited address space, and print what the clients get."""
    torch.set_num_threads(1)
    predictor = VideoPredictor.from_run(run.path, device="cpu", overrides=OVERRIDES)
    embed = predictor.model.llm.embed

    def embed_with_large_activations(ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > 300:  # a long question
            held = torch.ones(25 * MEGABYTE)  # 100 MB
            torch.cat([held] * 100)  # 10 GB
        return embed(ids)

    predictor.model.llm.embed = embed_with_large_activations
    with run_server(predictor, ServerConfig(), [clips]) as server:
        url = (clips / "walk.mp4").as_uri()
        expected = server.chat(url, "What is shown?").json()["choices"]
        used = process_memory(os.getpid())["VmSize"]
        limit = used + 600 * MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for _ in range(7):  # seven times 100 MB would not fit
            response = server.chat(url, "long " * 300)
            assert response.status == 503, response.body
            assert server.chat(url, "What is shown?").json()["choices"] == expected
        print(response.error)
        assert process_memory(os.getpid())["VmSize"] < used + 300 * MEGABYTE


@pytest.mark.slow
def test_server_below_a_limit_of_memory_answers_503_and_frees_the_memory(
    random_run: RunDir, folder: Path
) -> None:
    script = (
        "from tests.server.test_out_of_memory import *\n"
        f"serve_below_a_limit(RunDir(Path({str(random_run.path)!r})), Path({str(folder)!r}))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "The answer about walk.mp4 does not fit into memory" in finished.stdout
