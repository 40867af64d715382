"""How the threads of PyTorch wait for each other on a CPU.

A thread of OpenMP that waits, spins: it holds its core, also where another program could use that to get done. GNU's
default is to spin for milliseconds: on 2 cores beside two busy programs YOLOv8n at 640 pixels took 312 to 1,986 ms an
image, with 10,000 spins 92 to 195 ms; alone, 74 to 81 and 70 to 100 ms.
"""

import os

SPINS = 10_000  # some 30 us, longer than the threads of a quiet machine wait for each other
DECIDES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # a user's own choice


def shorten_spinning() -> None:
    """Let waiting threads sleep after a short while, unless the environment says how they wait.

    Works before PyTorch is loaded, and on GNU's OpenMP, which PyTorch has on Linux; others ignore it. Processes that
    are started later inherit it.
    """
    if not any(name in os.environ for name in DECIDES):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
