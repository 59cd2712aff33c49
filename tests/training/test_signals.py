import multiprocessing
import os
import signal
import subprocess
import sys
import time

from lit_hour.training.signals import ShutdownSignal


def handlers() -> list[object]:
    return [signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM)]


def test_warnings_are_noted_while_it_listens_and_handlers_come_back() -> None:
    stop, before = ShutdownSignal(), handlers()
    with stop.installed():
        assert stop.received == 0
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            assert stop.received == number
        with stop.installed():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Lightning puts its own
            stop.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert handlers() == before


def ends_when_warned(*last_words: str) -> bool:
    """Return True if signals kill a process that has exited Python and hangs in a library."""
    words = [
        "import ctypes",
        "from lit_hour.training.signals import ShutdownSignal",
        "shutdown = ShutdownSignal()",
        "shutdown.install()",
        *last_words,
    ]
    words += [
        "libc = ctypes.CDLL(None)",
        "libc.__cxa_atexit(libc.pause, None, None)",
        "print('leaves', flush=True)",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", "; ".join(words)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "leaves\n"
    for _ in range(100):
        process.terminate()
        time.sleep(0.01)
    has_ended = process.poll() is not None
    process.kill()
    assert process.wait() == (-signal.SIGTERM if has_ended else -signal.SIGKILL)
    return has_ended


def test_a_process_that_leaves_is_not_ended_by_a_warning_that_it_ignores() -> None:
    assert ends_when_warned()
    assert not ends_when_warned("shutdown.ignore()")


def warn_itself() -> int | None:
    """Return the exit status of a fork that sends itself SIGTERM."""

    def warn() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    worker = multiprocessing.get_context("fork").Process(target=warn)
    worker.start()
    worker.join()
    return worker.exitcode


def test_a_fork_listens_even_if_another_handler_is_in_place() -> None:
    stop = ShutdownSignal()
    with stop.installed():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert warn_itself() == 0
    assert warn_itself() == -signal.SIGTERM
