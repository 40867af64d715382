"""Programs of this project as processes, the way users start them."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# One thread: the tests run beside others, and a sum split over another number of threads rounds differently.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
GRACE = 60.0  # seconds for a program that was told to stop; torchrun gives its processes 30


def start(*command: object, environment: dict[str, str] = ENVIRONMENT) -> subprocess.Popen:
    """A Python program, by its path or `-m MODULE`, as a process of which `ended` tells the rest."""
    return subprocess.Popen([sys.executable, *map(str, command)], text=True, env=environment, cwd=ROOT,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen, limit: float = 300.0) -> subprocess.CompletedProcess:
    """What a process of `start` has said and its exit code; one that takes longer than `limit` seconds is ended, what
    it has started with it, and fails the test with what it said."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        out, err = "", "somebody else holds its output"
        for end in (process.terminate, process.kill):  # torchrun ends its processes when told to, and not when killed
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=GRACE)
                break
        pytest.fail(f"{process.args} did not end within {limit:.0f} s:\n{out}\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(*command: object, limit: float = 300.0,
        environment: dict[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess:
    """A Python program from its start to its end."""
    return ended(start(*command, environment=environment), limit)


def script(name: str, *flags: object, ok: bool = True) -> subprocess.CompletedProcess:
    """Run one of our scripts, which should (not) succeed, and never with a traceback where it does."""
    done = run(f"{name}.py", *flags)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr or ok
    return done


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Until a process has written a file."""
    deadline = time.monotonic() + 120
    while not path.is_file():
        over = process.poll() is not None or time.monotonic() > deadline
        if over and not path.is_file():
            process.terminate()
            done = ended(process)
            pytest.fail(f"{process.args} has not written {path}:\n{done.stdout}\n{done.stderr}")
        time.sleep(0.01)
