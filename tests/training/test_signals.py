import multiprocessing
import os
import signal
import subprocess
import sys
import time

from lit_hour.training.signals import EXIT_INTERRUPTED, REPEAT_SECONDS, ShutdownSignal


def handlers() -> list[object]:
    return [signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]


def test_installed_handler_records_signals_and_restores_handlers() -> None:
    stop, before = ShutdownSignal(), handlers()
    with stop.installed():
        assert stop.received == 0
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
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


def test_ignored_signals_do_not_kill_an_exiting_process() -> None:
    assert ends_when_warned()
    assert not ends_when_warned("shutdown.ignore()")


BLOCKED = """
import ctypes, logging, os, signal, sys
from lit_hour.training.signals import ShutdownSignal
logging.basicConfig(stream=sys.stdout, format="%(message)s")
shutdown = ShutdownSignal()
shutdown.before_abort = lambda: os.write(1, b"released\\n")
with shutdown.installed():
    print("ready", flush=True)
    until = int(sys.argv[1])  # a call of C, during which Python runs no handler
    while until: until = ctypes.CDLL(None).sleep(until)
    print("received", shutdown.received, flush=True)
"""


def test_second_ctrl_c_ends_a_process_inside_a_library_call() -> None:
    command = [sys.executable, "-c", BLOCKED, "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "\n"
    assert "saves and exits after this step. Press Ctrl-C again" in process.stdout.readline()
    time.sleep(REPEAT_SECONDS + 0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "released\n"
    assert process.returncode == EXIT_INTERRUPTED == 130


def test_repeated_ctrl_c_of_a_launcher_counts_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, "2"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    printed = process.communicate(timeout=10)[0]
    assert process.returncode == 0 and printed.endswith(f"received {signal.SIGINT:d}\n")
    assert printed.count("Ctrl-C again") == 1


def test_ctrl_c_stays_ignored_in_a_process_in_the_background() -> None:
    stop, before = ShutdownSignal(), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop.installed():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_fork_ignores_ctrl_c_of_its_rank() -> None:
    stop = ShutdownSignal()
    with stop.installed():
        assert signal_itself(signal.SIGINT) == 0
        time.sleep(0.05)
        assert stop.received == 0


def signal_itself(number: int = signal.SIGTERM) -> int | None:
    """Return the exit status of a fork that sends itself a signal."""

    def warn() -> None:
        os.kill(os.getpid(), number)

    worker = multiprocessing.get_context("fork").Process(target=warn)
    worker.start()
    worker.join()
    return worker.exitcode


def test_forked_worker_has_the_recording_handler() -> None:
    stop = ShutdownSignal()
    with stop.installed():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal_itself() == 0
    assert signal_itself() == -signal.SIGTERM
