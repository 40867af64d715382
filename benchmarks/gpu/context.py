"""The context of a measurement, through which it reports each figure immediately."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.record import Piece


@dataclass(frozen=True)
class Context:
    """device: where to measure; small: tiny sizes; shared: folder that holds golden/ and data/; work: folder of files
    under way; add: takes a row, which is on the disk when it returns."""

    device: torch.device
    small: bool
    shared: Path
    work: Path
    add: Callable[[Piece], None]

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def check(self, what: str, error: float, limit: float, note: str = "") -> None:
        """Add one comparison; a NaN does not pass."""
        self.add({"what": what, "error": float(error), "limit": float(limit), "ok": bool(error <= limit),
                  "note": note})

    def fact(self, what: str, ok: bool, note: str = "") -> None:
        """Add something that holds or does not."""
        self.add({"what": what, "error": None, "limit": None, "ok": bool(ok), "note": note})

    def skip(self, what: str, why: str) -> None:
        """Add something that this device cannot show."""
        self.fact(what, True, f"not checked: {why}")

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give memory back, and begin to measure its peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def seconds_of(context: Context, act: Callable[[], Any], rounds: int, times: int = 1) -> list[float]:
    """Seconds of one `act`, ascending, of `rounds` rounds of so many in a row; the device rests only between rounds."""
    found = []
    for _ in range(rounds):
        context.synchronize()
        since = time.perf_counter()
        for _ in range(times):
            act()
        context.synchronize()
        found.append((time.perf_counter() - since) / times)
    return sorted(found)


def median_of(context: Context, act: Callable[[], Any], rounds: int, times: int = 1) -> float:
    return median(seconds_of(context, act, rounds, times))
