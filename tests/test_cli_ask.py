"""Options of `lit-hour ask`: sampling, and files that are named by URLs."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

from lit_hour.cli.command import add_sampling_options, read_sampling_params
from lit_hour.cli.main import main
from lit_hour.cli.web_files import local_files
from lit_hour.config.arguments import CommandParser
from lit_hour.config.sampling_params import SamplingParams
from lit_hour.errors import ConfigError, DownloadError, InputError, QuestionError
from tests.helpers.http_server import run_in_thread


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def parse(*options: str) -> SamplingParams:
    parser = CommandParser("ask", "")
    add_sampling_options(parser)
    return read_sampling_params(parser.parse(list(options)))


def test_sampling_options_become_parameters() -> None:
    assert parse() == SamplingParams()
    options = ("--temperature", "0.7", "--top-p", "0.9", "--top-k", "5", "--seed", "-3")
    assert parse(*options, "--stop", "x", "--stop", "y") == SamplingParams(
        temperature=0.7, top_p=0.9, top_k=5, seed=-3, stop=("x", "y")
    )
    assert parse("--temperature", "0", "--seed", "1").temperature == 0


def test_sampling_options_out_of_range_or_without_effect_are_refused() -> None:
    for options, message in (
        (("--temperature", "3"), "temperature=3.0 is out of range. It must be at least 0 and"),
        (("--temperature", "nan"), "temperature=nan must be a finite number"),
        (("--temperature", "1", "--top-p", "0"), "top_p=0.0 is out of range"),
        (("--top-p", "0.5"), "--top-p has no effect without --temperature"),
        (("--seed", "5"), "--seed has no effect without --temperature"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(*options)


def test_ask_reads_no_url_without_the_option(tmp_path: Path) -> None:
    for url in ("https://example.org/film.mp4", "HTTP://example.org/film.mp4"):
        with pytest.raises(QuestionError, match=r"URLs are not read\. .* --allow-url"):
            main(["ask", "--run", str(tmp_path), url, "What?"])
    with pytest.raises(InputError, match="film"):
        main(["ask", "--run", str(tmp_path), str(tmp_path / "film.mp4"), "What?"])


def test_files_of_urls_are_deleted_after_the_command(tmp_path: Path) -> None:
    for name in ("film.mp4", "a b.png"):
        (tmp_path / name).write_bytes(name.encode())
    handler = partial(QuietHandler, directory=str(tmp_path))
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    url = f"http://127.0.0.1:{web.server_port}"
    with run_in_thread(web):
        names = [f"{url}/film.mp4?x=1", "local.png", f"{url}/a%20b.png"]
        with local_files(names, allow_url=True) as (film, local, image):
            assert (film.name, local, image.name) == ("film.mp4", Path("local.png"), "a b.png")
            assert (film.read_bytes(), image.read_bytes()) == (b"film.mp4", b"a b.png")
            assert film.is_relative_to(gettempdir())
        assert not film.parent.exists() and not image.parent.exists()
        with (
            pytest.raises(DownloadError, match="status 404"),
            local_files([f"{url}/none.mp4"], allow_url=True),
        ):
            raise AssertionError("not reached")
