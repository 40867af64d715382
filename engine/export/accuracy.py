"""AP of an exported file beside that of PyTorch, on the labelled images of `--data`."""

from dataclasses import dataclass, replace
from pathlib import Path

from data import Index
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from engine.evaluation.evaluate import evaluate, without_losses
from engine.evaluation.setup import select_for
from engine.export.gate import PICTURES
from engine.inference.runtimes.base import Runtime
from utils.errors import UserError


@dataclass(frozen=True)
class Accuracy:
    """AP and AP50 of PyTorch and of the exported file on so many images."""

    images: int
    before: tuple[float, float]
    after: tuple[float, float]

    def __str__(self) -> str:
        return (f"AP {self.before[0]:.4f} in PyTorch, {self.after[0]:.4f} in the file; AP50 {self.before[1]:.4f}, "
                f"{self.after[1]:.4f} ({self.images} images)")


def compare_accuracy(index: Index, data: str, reference: Runtime, exported: Runtime, size: tuple[int, int],
                     path: Path) -> Accuracy:
    """AP of both in the frames that the exported file takes. Raises `UserError` where the file loses more than the
    tolerance of its precision, or has other classes than the data."""
    frame, wanted = exported.frame, exported.choose_size(size)
    found = []
    for runtime in (reference, exported):
        loader = eval_loader(index, wanted, LoaderConfig(exported.fixed_batch or 1, frame=frame))
        thresholds = exported.thresholds if exported.selection else replace(
            reference.thresholds, max_det=min(reference.thresholds.max_det, 300))
        metrics = evaluate(without_losses(runtime.predict), select_for(runtime, index, False, data), loader, index,
                           thresholds, device=runtime.device).metrics
        found.append((max(metrics["AP"], 0.0), max(metrics["AP50"], 0.0)))
    accuracy, allowed = Accuracy(len(index), *found), PICTURES[exported.precision].ap
    if not found[1][0] >= found[0][0] - allowed:
        cure = "give more --images, or --half" if exported.precision == "int8" else "export it in fp32"
        raise UserError(f"{path}: not written, AP falls by more than {allowed}: {accuracy}; {cure}", "export-differs")
    return accuracy
