"""The types that flow from a file to a metric, each checked when it is built: `ValueError` where one is not as it says.

Shapes, lengths and dtypes are always checked, values of CPU tensors alone: those of a GPU would make the host wait.

Legend: B images in a batch, N boxes of one image, M the most boxes of any image in a batch, H, W pixels of the frame.
Boxes are float32 xyxy pixels everywhere; those of targets have x1 <= x2 and y1 <= y2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor

from utils.boxes import clip_boxes

T = TypeVar("T")


@dataclass(frozen=True)
class Letterbox:
    """How an original frame was placed in the input frame: input = original * scale + pad, per axis.

    original, input: (height, width) in pixels; scale: (x, y); pad: (left, top) in input pixels.
    """

    original: tuple[int, int]
    input: tuple[int, int]
    scale: tuple[float, float]
    pad: tuple[int, int]

    def forward(self, boxes: Tensor) -> Tensor:
        """(N, 4) pixels of the original frame -> pixels of the input frame."""
        scale, pad = self._vectors(boxes)
        return boxes * scale + pad

    def inverse(self, boxes: Tensor, clip: bool = False) -> Tensor:
        """(N, 4) pixels of the input frame -> pixels of the original frame; `clip` cuts at the original's border."""
        scale, pad = self._vectors(boxes)
        boxes = (boxes - pad) / scale
        return clip_boxes(boxes, *self.original) if clip else boxes

    @property
    def content(self) -> tuple[int, int]:
        """(height, width) of the image in the input frame."""
        return max(round(self.original[0] * self.scale[1]), 1), max(round(self.original[1] * self.scale[0]), 1)

    def _vectors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.scale * 2), like.new_tensor(self.pad * 2)


@dataclass
class Targets:
    """The objects of one image.

    boxes (N, 4) float32 xyxy pixels of the input frame; labels (N,) int64, 0 or more; ignore (N,) bool, True for
    crowd regions, which are neither object nor background.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.ignore is None:
            self.ignore = torch.zeros(len(self.labels), dtype=torch.bool, device=self.labels.device)
        n = len(self.labels)
        _check(self.boxes, (n, 4), torch.float32, "Targets.boxes")
        _check(self.labels, (n,), torch.int64, "Targets.labels")
        _check(self.ignore, (n,), torch.bool, "Targets.ignore")
        _check_labels(self.labels, "Targets.labels")
        _check_corners(self.boxes, "Targets.boxes")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def empty(cls) -> "Targets":
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))


@dataclass
class PackedTargets:
    """The targets of a batch as padded arrays, the form that assigners read.

    boxes (B, M, 4) float32, labels (B, M) int64, ignore (B, M) bool for crowd regions, valid (B, M) bool, True where a
    row holds an object to learn (neither padding nor crowd). Padding rows are zero. M may be 0. content (B, 2) int64:
    height and width of the images, which lie at the top left of their frames; None where that is not told: the whole.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    valid: Tensor
    content: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.labels.shape)
        if len(shape) != 2:
            raise ValueError(f"PackedTargets.labels: expected (B, M), got {shape}")
        _check(self.boxes, (*shape, 4), torch.float32, "PackedTargets.boxes")
        _check(self.labels, shape, torch.int64, "PackedTargets.labels")
        _check(self.ignore, shape, torch.bool, "PackedTargets.ignore")
        _check(self.valid, shape, torch.bool, "PackedTargets.valid")
        if self.content is not None:
            _check(self.content, (shape[0], 2), torch.int64, "PackedTargets.content")
        _check_labels(self.labels, "PackedTargets.labels")
        _check_corners(self.boxes, "PackedTargets.boxes")
        if self.valid.device.type == "cpu" and bool((self.valid & self.ignore).any()):
            raise ValueError("PackedTargets: a crowd region (ignore) is marked as an object to learn (valid)")

    def tensors(self) -> tuple[Tensor, ...]:
        """In the order in which a `PackedTargets` is made of them; without content where there is none."""
        known = (self.boxes, self.labels, self.ignore, self.valid)
        return known if self.content is None else (*known, self.content)

    def __getitem__(self, images: slice | list[int]) -> "PackedTargets":
        """The targets of some images."""
        return self._like(t[images] for t in self.tensors())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedTargets":
        return self._like(t.to(device, non_blocking=non_blocking) for t in self.tensors())

    def pin_memory(self) -> "PackedTargets":
        return self._like(t.pin_memory() for t in self.tensors())

    def unpack(self) -> list[Targets]:
        """The same as a list of `Targets`, crowds kept, padding dropped."""
        keep = self.valid | self.ignore
        rows = zip(self.boxes, self.labels, self.ignore, keep, strict=True)
        return [_checked_before(Targets, boxes[k], labels[k], ignore[k]) for boxes, labels, ignore, k in rows]

    def _like(self, tensors: Iterable[Tensor]) -> "PackedTargets":
        boxes, labels, ignore, valid, *content = tensors
        return _checked_before(PackedTargets, boxes, labels, ignore, valid, content[0] if content else None)


def pack_targets(targets: "Sequence[Targets] | PackedTargets") -> PackedTargets:
    """Pad a list of per-image targets to (B, M, ...) arrays; an already packed batch passes through."""
    if isinstance(targets, PackedTargets):
        return targets
    pad = torch.nn.utils.rnn.pad_sequence
    boxes = pad([t.boxes for t in targets], batch_first=True)  # (B, M, 4)
    labels = pad([t.labels for t in targets], batch_first=True)  # (B, M)
    ignore = pad([t.ignore for t in targets], batch_first=True)  # (B, M)
    valid = pad([~t.ignore for t in targets], batch_first=True)  # (B, M); padding is False
    return PackedTargets(boxes, labels, ignore, valid)


@dataclass
class Batch:
    """What a loader yields: images (B, 3, H, W) RGB, uint8 or float in [0, 1], in channels-last order; targets; of each
    image its id and how it lies in the frame."""

    images: Tensor
    targets: PackedTargets
    image_ids: list[int]
    letterboxes: list[Letterbox]

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] != 3 or (self.images.dtype != torch.uint8
                                                and not self.images.is_floating_point()):
            raise ValueError(f"Batch.images: expected (B, 3, H, W) uint8 or float, got {shape} {self.images.dtype}")
        counts = len(self.targets.labels), len(self.image_ids), len(self.letterboxes)
        if counts != (shape[0],) * 3:
            raise ValueError(f"Batch: {shape[0]} images, but targets, ids and letterboxes of {counts}")
        wrong = [box.input for box in self.letterboxes if tuple(box.input) != shape[2:]]
        if wrong:
            raise ValueError(f"Batch.letterboxes: frames of {wrong[0]}, images of {shape[2:]}")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "Batch":
        return Batch(self.images.to(device, non_blocking=non_blocking), self.targets.to(device, non_blocking),
                     self.image_ids, self.letterboxes)

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.image_ids, self.letterboxes)


@dataclass
class Raw:
    """What a head says before decoding; both loss and decode read it, so training and inference see one object.

    maps: name -> one tensor per level, finest first. DFL head: "box" (B, 4*bins, h, w), "cls" (B, nc, h, w).
    Anchor head: "lead" (B, anchors, h, w, 5+nc), and "aux" of the same form where the model has auxiliary heads.
    image_size: (H, W) of the input frame in pixels; content (B, 2): height and width of each image at the frame's top
    left, None where that is the whole frame or does not matter to the head.
    """

    maps: dict[str, tuple[Tensor, ...]]
    image_size: tuple[int, int]
    content: Tensor | None = None


@dataclass
class Detections:
    """The detections in one image: boxes (N, 4) xyxy pixels, scores (N,) descending, labels (N,) int64, 0 or more."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        n = len(self.scores)
        _check(self.scores, (n,), None, "Detections.scores")
        _check(self.boxes, (n, 4), None, "Detections.boxes")
        _check(self.labels, (n,), torch.int64, "Detections.labels")
        _check_labels(self.labels, "Detections.labels")
        if self.scores.device.type == "cpu" and bool((self.scores[1:] > self.scores[:-1]).any()):
            raise ValueError("Detections.scores: expected the highest first")

    def __len__(self) -> int:
        return len(self.scores)

    def to_original(self, letterbox: Letterbox) -> "Detections":
        """Carry the boxes from the input frame to the original one, cut at its border."""
        return _checked_before(Detections, letterbox.inverse(self.boxes, clip=True), self.scores, self.labels)

    def cpu(self) -> "Detections":
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())


def _check(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, what: str) -> None:
    if tuple(tensor.shape) != shape or (dtype is not None and tensor.dtype != dtype):
        wanted = f"{shape} {dtype or ''}".strip()
        raise ValueError(f"{what}: expected {wanted}, got {tuple(tensor.shape)} {tensor.dtype}")


def _checked_before(kind: type[T], *values: object) -> T:
    """One of these dataclasses, of values that come from a checked one and keep what was checked."""
    made = object.__new__(kind)
    made.__dict__.update(zip((f.name for f in fields(kind)), values, strict=True))
    return made


def _check_labels(labels: Tensor, what: str) -> None:
    if labels.device.type == "cpu" and labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"{what}: expected 0 or more, got {int(labels.min())}")


def _check_corners(boxes: Tensor, what: str) -> None:
    """NaN passes: it has no order, and the loss that it makes is reported with its image."""
    if boxes.device.type == "cpu" and bool((boxes[..., 2:] < boxes[..., :2]).any()):
        first = boxes[(boxes[..., 2:] < boxes[..., :2]).any(-1)][0].tolist()
        raise ValueError(f"{what}: expected x1 <= x2 and y1 <= y2, got {first}")
