"""How long the stages of an evaluation or a detection take."""

import time
from collections.abc import Mapping, Sequence

import torch


class StageClock:
    """Seconds by stage. Each lap waits for the GPU, so that a stage's time includes the work that it has queued.

    seconds: the sums by stage; spent: seconds since the last `start`.
    """

    def __init__(self, device: torch.device, stages: Sequence[str]) -> None:
        self.device = device
        self.seconds = dict.fromkeys(stages, 0.0)
        self.start()

    def start(self) -> None:
        """Begin with the next image or batch: what passed since the last lap belongs to no stage."""
        self.spent, self._at = 0.0, time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap or start goes to `stage`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] += now - self._at
        self.spent, self._at = self.spent + now - self._at, now


def per_image(seconds: Mapping[str, float], images: int) -> dict[str, float]:
    """Milliseconds per image by stage."""
    return {stage: 1e3 * value / max(images, 1) for stage, value in seconds.items()}


def format_speed(milliseconds: Mapping[str, float]) -> str:
    """`1.2 ms load, 30.1 ms inference`."""
    return ", ".join(f"{value:.1f} ms {stage}" for stage, value in milliseconds.items())
