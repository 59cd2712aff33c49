"""`lit-hour serve` as a process: invalid arguments, and from the first answer to Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.errors import InputError, ServerError
from lit_hour.run_dir import RunDir
from lit_hour.server.app import serve
from tests import REPOSITORY
from tests.server.helpers import chat_body


def test_serve_rejects_unsafe_or_invalid_arguments(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-is-long-enough")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        for argv, message in (
            (["--host", "0.0.0.0"], "Give --token-file FILE"),
            (["--host", "0.0.0.0", "--token-file", "none"], "none cannot be read"),
            (["--videos", "none"], "--videos none is not a directory"),
            (
                ["--host", "no.such.name.invalid", "--token-file", str(token)],
                r"Cannot listen on --host no\.such\.name\.invalid --port 0",
            ),
            (
                ["--port", port],
                rf"Cannot listen on --host 127\.0\.0\.1 --port {port}: Address already in use",
            ),
            ([], "[Nn]o run at"),
        ):
            free_port = [] if "--port" in argv else ["--port", "0"]
            with pytest.raises(InputError, match=message):
                main(["serve", "--run", str(tmp_path / "run"), *free_port, *argv])
    with pytest.raises(ServerError, match=r"--port 80000 must be a port from 0 to 65535"):
        serve(tmp_path / "run", "127.0.0.1", 80000)


@pytest.mark.slow
def test_serve_answers_until_it_is_interrupted_and_leaves_no_files(
    random_run: RunDir, clip: bytes, tmp_path: Path
) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    argv = ["serve", "--run", str(random_run.path), "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "lit_hour", *argv, f"serving.server.upload_folder={uploads}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split(" ")[0]
        upload = urllib.request.Request(f"{url}v1/videos?name=a.mp4", clip, method="POST")
        video = json.load(urllib.request.urlopen(upload))["id"]
        assert len(list(uploads.rglob("*"))) == 2  # a private directory, and the file in it
        body = chat_body(video, "What?").replace("toy-model", random_run.path.name)
        response = urllib.request.urlopen(f"{url}v1/chat/completions", body.encode())
        assert json.load(response)["choices"][0]["message"]["content"]
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    assert "Traceback" not in errors
    assert list(uploads.iterdir()) == []
