import multiprocessing

import pytest

from lit_hour.errors import RunError
from lit_hour.training.trainer_setup import readable_messages


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"),
        FileNotFoundError("no such file"),
        ConnectionResetError("of another kind"),
    ],
)
def test_readable_messages_pass_other_errors_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as passed, readable_messages():
        raise error
    assert passed.value is error


def test_broken_pipe_is_explained_as_a_killed_worker() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    message = r"A data worker was killed.*resumes from its newest checkpoint"
    with pytest.raises(RunError, match=message), readable_messages():
        ours.recv()


def test_full_shared_memory_is_explained() -> None:
    error = RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left")
    with (
        pytest.raises(RunError, match=r"/dev/shm is full.*data\.frame_arena_gb"),
        readable_messages(),
    ):
        raise error
