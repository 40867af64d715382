"""Ending of programs that were started."""

import signal
import subprocess
import time
from collections.abc import Sequence


def stop(processes: Sequence[subprocess.Popen], patience: float) -> None:
    """End trainings by an interrupt, or by force where they have not ended after `patience` seconds; their workers end
    when they miss them.

    Each loses at most the epoch it is in: checkpoints are whole and written after every epoch.
    """
    until = time.monotonic() + patience
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
