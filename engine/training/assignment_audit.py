"""`train.py --audit-assignment`: which objects get how many positives, before anything is trained.

Legend: B images, H, W pixels of the frame, M boxes of the fullest image, N objects, L levels of the pyramid.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.training.assignment_report import Audited, write_report
from engine.training.config import DEFAULT_MODEL, TrainConfig
from engine.training.nonfinite import BufferSnapshot
from engine.training.preview import open_preview
from models.assign.assignment import Assignment
from models.boxes.similarity import box_similarity
from models.detector import Detector
from utils.device import describe
from utils.distributed.group import Group
from utils.errors import UserError
from utils.reporting.run_log import increment_dir
from utils.structures import Batch, PackedTargets

PROJECT = "runs/audit"  # where no --project is given

# images (B, 3, H, W) and targets on the device of the model, and the batch as the loader made it
Batches = Iterable[tuple[Tensor, PackedTargets, Batch]]


@dataclass
class Tally:
    """Positives of every object seen, counted as batches come. levels: of the head."""

    levels: int
    parts: list[np.ndarray] = field(default_factory=list)  # (n, 5 + L): see `finish`

    def add(self, targets: PackedTargets, found: Assignment) -> None:
        """Count a batch: targets (B, M), and what its loss would learn from."""
        images, rows = targets.labels.shape
        key = found.image * rows + found.box  # (P,)
        truth = targets.boxes[found.image, found.box].float()
        overlap = box_similarity(found.guess, truth, "iou")
        prior = overlap if found.prior is None else box_similarity(found.prior, truth, "iou")
        cost = torch.zeros_like(overlap) if found.cost is None else found.cost
        sides = (targets.boxes[..., 2:] - targets.boxes[..., :2]).double().flatten(0, 1)  # (B*M, 2)
        columns = [sides.prod(1).sqrt(), torch.bincount(key, minlength=images * rows)]
        columns += [torch.bincount(key, value.double(), images * rows) for value in (overlap, prior, cost)]
        width = self.levels + 1  # of no level, then of each
        at_level = torch.bincount(key * width + found.level + 1, minlength=images * rows * width).view(-1, width)
        table = torch.cat((torch.stack([c.double() for c in columns], 1), at_level[:, 1:].double()), 1)
        self.parts.append(table[targets.valid.flatten()].cpu().numpy())

    def finish(self, split: str, images: int, has: dict[str, bool]) -> Audited:
        """What was counted. has: whether the head's positives have an anchor's box ("prior") and a cost ("cost")."""
        table = np.concatenate([np.zeros((0, 5 + self.levels)), *self.parts])
        size, count, overlap, prior, cost = table[:, :5].T
        return Audited(split, images, size, count.astype(np.int64), table[:, 5:].astype(np.int64), overlap,
                       prior if has["prior"] else None, cost if has["cost"] else None)


def tally(models: Mapping[str, Detector], batches: Batches, amp: torch.dtype | None,
          split: str) -> dict[str, Audited]:
    """Count the positives of some batches, by each of several models that differ in nothing but the assigner.

    Only the first is run, as a training step runs it, batch norms over the batch and without a gradient; its running
    statistics stay.
    """
    runs = next(iter(models.values()))
    counted = {name: Tally(len(model.strides)) for name, model in models.items()}
    snapshot, images, has = BufferSnapshot(runs), 0, {name: {"prior": False, "cost": False} for name in models}
    runs.train()
    for pixels, targets, batch in batches:
        with torch.no_grad(), torch.autocast(pixels.device.type, dtype=amp, enabled=amp is not None):
            raw = runs(pixels, targets=targets)
        for name, model in models.items():
            found = model.assignment(raw, targets)
            has[name] = {"prior": found.prior is not None, "cost": found.cost is not None}
            counted[name].add(targets, found)
        images += len(batch)
    snapshot.restore()
    return {name: part.finish(split, images, has[name]) for name, part in counted.items()}


def audit(config: TrainConfig, group: Group, device: torch.device) -> Path:
    """Assign the objects of `config.audit_assignment` training batches and of all validation images with the model,
    weights, data, recipe and sizes of a training; print the table and write it. Returns the folder."""
    if not group.is_single:
        raise UserError("--audit-assignment: counts in one process; start it without torchrun", "flag-conflict")
    preview = open_preview(config, group, device)
    model, config = preview.model, preview.config
    found = [part[""] for part in (
        tally({"": model}, preview.training_batches(config.audit_assignment), preview.amp, "train"),
        tally({"": model}, preview.validation_batches(), preview.amp, "val"))]
    folder = increment_dir(config.project if "project" in config.given else PROJECT, config.name, config.exist_ok)
    table = write_report(found, model.strides, header(config, model, device), folder, plots=not config.noplots)
    print(f"{table}\nresults in {folder}")
    return folder


def header(config: TrainConfig, model: Detector, device: torch.device) -> list[str]:
    """What was audited."""
    fresh = ("fresh weights: all scores are near their prior, so an assigner that looks at predictions decides nearly "
             "by geometry; --weights gives those of a trained model")
    start = f"weights {config.weights}" if config.weights else (
        f"backbone {config.backbone}, the rest fresh" if config.backbone else f"{fresh}; seed {config.seed}")
    tiles = f", tiles of {config.tile} px" if config.tile else ""
    recipe = config.hyp or (model.config.get("recipe") or "default")
    return [f"{config.cfg or config.weights or DEFAULT_MODEL}, assigner: {model.head.assigner}; {start}",
            f"data {config.data or 'shapes'}, recipe {recipe}, imgsz {' '.join(map(str, config.imgsz))}{tiles}, "
            f"batches of {config.batch_size}, on {describe(device)}; sizes are roots of areas in pixels of the frame"]
