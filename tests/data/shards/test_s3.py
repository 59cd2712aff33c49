"""Shards in a bucket that needs credentials, on moto's server."""

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.config.data import DataConfig
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from lit_hour.io.remote import has_s3_credentials

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret"}
VARIABLES = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@pytest.fixture
def s3_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty server; no credentials but those that a test sets are found."""
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("moto_server is not installed")
    pytest.importorskip("s3fs")
    for name in (*KEYS, *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    has_s3_credentials.cache_clear()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(f"{url}/moto-api/data.json")
        yield url
    finally:
        process.kill()
        process.wait()
        has_s3_credentials.cache_clear()


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_private_bucket_is_read_with_the_usual_credentials(
    s3_endpoint: str, frame_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(endpoint_url=s3_endpoint)
    files.mkdir("private")
    files.put(str(frame_shards), "private/shards", recursive=True)
    config = DataConfig(s3_endpoint=s3_endpoint, cache_folder=str(tmp_path / "cache"))
    shards, local = open_shards("s3://private/shards", config), open_shards(frame_shards)
    assert shards.indexes == local.indexes and shards.name == "s3://private/shards"
    for one, other in zip(shards.entries, local.entries, strict=True):
        assert replace(shards.read(one), location="") == replace(local.read(other), location="")
    with pytest.raises(ShardError, match=r"s3://private/none/index\.json: it does not exist"):
        open_shards("s3://private/none", config)
    with pytest.raises(ShardError, match=r"s3://nowhere/index\.json"):
        open_shards("s3://nowhere", config)
