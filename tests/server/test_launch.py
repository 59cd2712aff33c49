"""`python -m lit_hour serve` as a process: what it refuses to start with, and from the first answer to Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lit_hour.cli import main
from lit_hour.errors import InputError
from lit_hour.run_dir import RunDir
from tests import REPOSITORY
from tests.server.running import conversation


@pytest.mark.parametrize(
    ("words", "reason"),
    (
        (["--host", "0.0.0.0"], "give --token-file FILE"),
        (["--host", "0.0.0.0", "--token-file", "none"], "none cannot be read"),
        (["--videos", "none"], "--videos none is no folder"),
        (
            ["--host", "no.such.name.invalid", "--token-file", "TOKEN"],
            r"--host no\.such\.name\.invalid --port 0 cannot be",
        ),
        (
            ["--port", "TAKEN"],
            r"--host 127\.0\.0\.1 --port \d+ cannot be listened on: Address already in use",
        ),
        ([], "no run at"),
    ),
)
def test_what_is_not_safe_or_not_there_is_refused(
    tmp_path: Path, words: list[str], reason: str
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-is-long-enough")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"TOKEN": str(token), "TAKEN": str(taken.getsockname()[1])}
        port = [] if "--port" in words else ["--port", "0"]
        with pytest.raises(InputError, match=reason):
            main(
                [
                    "serve",
                    "--run",
                    str(tmp_path / "run"),
                    *port,
                    *(known.get(word, word) for word in words),
                ]
            )


def test_it_answers_until_it_is_stopped_and_leaves_nothing(
    random_run: RunDir, content: bytes, tmp_path: Path
) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    words = [
        "serve",
        "--run",
        str(random_run.path),
        "--port",
        "0",
        f"serving.server.upload_folder={uploads}",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "lit_hour", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split(" ")[0]
        sent = urllib.request.urlopen(
            urllib.request.Request(f"{url}v1/videos?name=a.mp4", content, method="POST")
        )
        video = json.load(sent)["id"]
        assert len(list(uploads.rglob("*"))) == 2  # a folder that only we may read, and the file
        reply = json.load(
            urllib.request.urlopen(
                f"{url}v1/chat/completions", conversation(video, "What?").encode()
            )
        )
        assert reply["choices"][0]["message"]["content"]
    finally:
        server.send_signal(signal.SIGINT)
        printed = server.communicate(timeout=30)
    assert "Traceback" not in printed[1]
    assert list(uploads.iterdir()) == []
