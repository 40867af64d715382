"""What a scale-sequence neck does with the validation images: its gates, what each level gives, what it adds.

Legend: B images of a batch, n of all, C channels, h, w pixels of the finest level that the neck reads, L levels, N
objects of an image, K of all images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.audit.regions import BACKGROUND, OUTSIDE, object_aucs, owners
from engine.training.nonfinite import BufferSnapshot
from engine.training.preview import Preview
from models.detector import Detector
from models.gate_maps import gates_of, level_names, neck_rows
from models.graph import Node
from models.necks.gates import ChannelGate
from utils.structures import Batch

PICTURES = 4  # images whose gate is shown
SMALL = 32  # px: those with the most objects below are shown


@dataclass
class Example:
    """An image (H, W, 3) RGB with boxes (N, 4) and its gate (h, w); small: objects below `SMALL` px."""

    image: np.ndarray
    boxes: np.ndarray
    gate: np.ndarray
    small: int


@dataclass
class NeckRecord:
    """What was seen of the neck in one row. gate: of each image mean, standard deviation and shares of the pixels below
    0.1 and above 0.9; objects: of each that has a pixel image, size px, AUC of the gate, the same with the gate of
    another image of its batch, and mean gate inside minus in the background; channels: of each image (C,); shares: of
    each image rows (1 + L): object size px (0: background, -1: all pixels), then the mean share of each level; added:
    of each image |what the neck adds| / |the finest level|; changed: of each batch (levels of the head) by which part
    its inputs differ from those without what the neck adds."""

    title: str
    levels: list[str]
    gate: list[np.ndarray] = field(default_factory=list)
    objects: list[tuple[float, ...]] = field(default_factory=list)
    channels: list[np.ndarray] = field(default_factory=list)
    shares: list[tuple[float, ...]] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    changed: list[np.ndarray] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


@dataclass
class _Seen:
    """Of one batch: mask (B, 1, h, w), channel gate (B, C), shares of the levels (L, B, h, w), |added| / |finest| (B,);
    None for what the row does not have."""

    mask: Tensor | None = None
    channel: Tensor | None = None
    shares: Tensor | None = None
    added: Tensor | None = None


@torch.no_grad()
def look_at_neck(preview: Preview) -> list[NeckRecord]:
    """Of each row of the model that is such a neck, or has its gate, in the order of the rows.

    Trained weights (`--weights`) are run as in detection, fresh ones as in a training step, batch norms over the batch,
    because their running statistics say nothing yet; either way nothing is changed.
    """
    model, fresh = preview.model, not preview.config.weights
    rows = neck_rows(model)
    records = [NeckRecord(f"row {node.index}, {node.module}", level_names(model, node)) for node, _ in rows]
    training, snapshot, images = model.training, BufferSnapshot(model), 0
    model.train(fresh)
    for pixels, targets, batch in preview.validation_batches() if rows else ():
        def run(pixels=pixels, targets=targets) -> None:
            with torch.autocast(pixels.device.type, dtype=preview.amp, enabled=preview.amp is not None):
                model(pixels, targets.content, targets=targets if fresh else None)

        with head_inputs(model) as inputs:
            for (node, layer), record in zip(rows, records, strict=True):
                seen = _Seen()
                with watched(node, layer, seen):
                    run()
                _note(record, seen, batch, images)
                if seen.added is not None:
                    own = inputs[-1]
                    with silenced(layer):
                        run()
                    record.changed.append(np.array([_relative(x, x - y) for x, y in zip(own, inputs[-1], strict=True)]))
                inputs.clear()
        images += len(batch)
    snapshot.restore()
    model.train(training)
    return records


@contextmanager
def head_inputs(model: Detector) -> Iterator[list[list[Tensor]]]:
    """The maps that the head reads, of each run of the model within."""
    found: list[list[Tensor]] = []
    handle = model.head.register_forward_pre_hook(lambda _, inputs: found.append(list(inputs[0])))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def watched(node: Node, layer: nn.Module, seen: _Seen) -> Iterator[None]:
    """Note in `seen` what a neck computes of the batch that is run within."""
    def mask(_: nn.Module, __: tuple, value: Tensor) -> None:
        seen.mask = value.float()

    def channel(_: nn.Module, __: tuple, value: Tensor) -> None:
        seen.channel = value.flatten(1).float()

    def whole(_: nn.Module, inputs: tuple[list[Tensor]], value: Tensor) -> None:
        parts = torch.stack([part.float() for part in layer.contributions(inputs[0])])
        seen.shares = parts / parts.sum(0).clamp(min=1e-12)
        finest, new = inputs[0][0].flatten(1).float(), value - without_added(inputs[0], value)
        seen.added = new.flatten(1).float().norm(dim=1) / finest.norm(dim=1).clamp(min=1e-12)

    handles = [gate.register_forward_hook(mask) for gate in gates_of(layer)]
    handles += [gate.register_forward_hook(channel) for gate in layer.modules() if isinstance(gate, ChannelGate)]
    if hasattr(layer, "contributions"):
        handles.append(layer.register_forward_hook(whole))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def silenced(layer: nn.Module) -> Iterator[None]:
    """Run the neck without what it adds to the finest level."""
    handle = layer.register_forward_hook(lambda _, inputs, value: without_added(inputs[0], value))
    try:
        yield
    finally:
        handle.remove()


def without_added(pyramid: list[Tensor], value: Tensor) -> Tensor:
    """What a neck gave, with the finest level alone: where the two were joined over channels, zeros in place of the new
    map, before or behind."""
    finest = pyramid[0]
    width, behind = finest.shape[1], value.shape[1] - finest.shape[1]
    if not behind:
        return finest
    zeros = torch.zeros_like(value[:, :behind])
    leads = torch.equal(value[:, :width], finest)
    return torch.cat((finest, zeros) if leads else (zeros, finest), 1)


def _relative(whole: Tensor, part: Tensor) -> float:
    return float(part.float().norm() / whole.float().norm().clamp(min=1e-12))


def _note(record: NeckRecord, seen: _Seen, batch: Batch, first: int) -> None:
    """Add a batch to the record; first: the number of its first image."""
    if seen.channel is not None:
        record.channels += list(seen.channel.cpu().numpy())
    if seen.added is not None:
        record.added += seen.added.tolist()
    maps = seen.mask[:, 0] if seen.mask is not None else seen.shares[0]
    shape, targets = tuple(maps.shape[1:]), batch.targets
    boxes = [image.boxes.cpu().numpy().astype(np.float64) for image in targets.unpack()]
    ignore = [image.ignore.cpu().numpy() for image in targets.unpack()]
    regions = [owners(*args, shape, placed) for *args, placed in zip(boxes, ignore, batch.letterboxes, strict=True)]
    sizes = [np.sqrt((b[:, 2:] - b[:, :2]).prod(1)) for b in boxes]
    for k, owner in enumerate(regions):
        if seen.shares is not None:
            record.shares += list(_shares(seen.shares[:, k].cpu().numpy(), owner, sizes[k]))
        if seen.mask is None:
            continue
        gate, other = (seen.mask[i, 0].cpu().numpy().astype(np.float64) for i in (k, k - 1))
        inside = gate[owner != OUTSIDE]
        record.gate.append(np.array([inside.mean(), inside.std(), (inside < 0.1).mean(), (inside > 0.9).mean()]))
        elsewhere = np.where(regions[k - 1] == OUTSIDE, OUTSIDE, owner)
        rows, aucs = object_aucs(gate, owner)
        theirs = dict(zip(*object_aucs(other, elsewhere), strict=True)) if len(regions) > 1 else {}
        rest = gate[owner == BACKGROUND].mean() if len(rows) else 0.0
        record.objects += [(first + k, sizes[k][row], auc, theirs.get(row, np.nan), gate[owner == row].mean() - rest)
                           for row, auc in zip(rows, aucs, strict=True)]
        _keep_example(record, batch, k, Example(np.zeros(0), boxes[k][~ignore[k]], gate,
                                                int((sizes[k][~ignore[k]] < SMALL).sum())))


def _shares(shares: np.ndarray, owner: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[float, ...]]:
    """Rows of `NeckRecord.shares` of an image; shares (L, h, w)."""
    for size, chosen in ((-1.0, owner != OUTSIDE), (0.0, owner == BACKGROUND),
                         *((sizes[row], owner == row) for row in np.unique(owner[owner >= 0]))):
        if chosen.any():
            yield size, *shares[:, chosen].mean(1)


def _keep_example(record: NeckRecord, batch: Batch, k: int, found: Example) -> None:
    """Keep the `PICTURES` images with the most small objects, the first of equals."""
    if len(record.examples) < PICTURES or found.small > record.examples[-1].small:
        found.image = _picture(batch.images[k])
        record.examples = sorted([*record.examples, found], key=lambda e: -e.small)[:PICTURES]


def _picture(image: Tensor) -> np.ndarray:
    """(3, H, W) as loaded -> (H, W, 3) uint8."""
    image = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()
