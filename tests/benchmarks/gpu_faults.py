"""Pieces for a GPU that tests ask a worker for: one that goes well, and all that can go wrong."""

import subprocess
import sys
import time

from benchmarks.gpu.context import Context


def measure(context: Context) -> None:
    context.check("a", 1e-9, 1e-6)


def fail(context: Context) -> None:
    context.fact("before", True)
    raise ValueError("no such thing")


def hang(context: Context) -> None:
    context.fact("before", True)
    time.sleep(1000)


def start_and_hang(context: Context) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    context.fact("child", True, str(child.pid))
    time.sleep(1000)


def end(context: Context) -> None:
    raise SystemExit(3)


def break_device(context: Context) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
