"""Shards in a private data set of Hugging Face, on a server that speaks its protocol.

Its library reads the address of the server when it is imported: hence the processes.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.data.shards.reader import open_shards
from tests.helpers.hub_server import DATA_SET, HubServer, serve_hub

pytestmark = pytest.mark.slow
READ_ALL = """
import json, sys
from lit_hour.config.data import DataConfig
from lit_hour.data.shards import cache
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
cache.SMALL_TAR_BYTES = 0  # samples are read as ranges until their tar is complete
try:
    shards = open_shards(sys.argv[1], DataConfig(cache_folder=sys.argv[2]))
    print(json.dumps([[one.key, [len(data) for _, data in shards.read(one).images]]
                      for one in shards.entries]))
except ShardError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def hub(frame_shards: Path, tmp_path: Path) -> Iterator[HubServer]:
    shutil.copytree(frame_shards, tmp_path / "set/deep/shards")
    with serve_hub(tmp_path / "set") as server:
        yield server


def read_all(hub: HubServer, url: str, cache: Path, **changes: str) -> object:
    command = [sys.executable, "-c", READ_ALL, url, str(cache)]
    environment = {**os.environ, **hub.environment, **changes}
    output = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
    return json.loads(output.stdout.splitlines()[-1])


def test_private_data_set_is_read_with_the_usual_token(
    hub: HubServer, frame_shards: Path, tmp_path: Path
) -> None:
    hub.num_unavailable = 2
    url = f"hf://datasets/{DATA_SET}/deep/shards"
    local = open_shards(frame_shards)
    expected = [
        [one.key, [len(data) for _, data in local.read(one).images]] for one in local.entries
    ]
    assert read_all(hub, url, tmp_path / "cache") == expected
    assert hub.num_unavailable == 0
    first = local.entries[0]
    wanted = f"bytes={first.offset}-{first.offset + first.num_bytes - 1}"  # nothing ahead of it
    assert any(path.endswith(first.shard) and one == wanted for path, one in hub.requests)
    refused = read_all(hub, url, tmp_path / "other", HF_TOKEN="hf_wrong")
    assert str(refused).startswith(f"Cannot download {url}/index.json: the server answers 401")
    none = f"hf://datasets/{DATA_SET}/none"
    missing = read_all(hub, none, tmp_path / "other")
    assert str(missing).startswith(f"Cannot download {none}/index.json: it does not exist")
