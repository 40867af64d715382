"""The outputs of exported files, and how they are read.

Legend: B images, N candidates of an image, K detections that a file may give of an image, C classes.

| layout | selection | outputs |
| --- | --- | --- |
| plain | left to the reader | `boxes` (B, N, 4) x1 y1 x2 y2 in input pixels, `scores` (B, N, C) |
| plain | in the file | `detections` (B, K, 6) x1 y1 x2 y2 score class, padded with zeros; `count` (B,) int64 |
| peer | left to the reader | `output0` (B, 4 + C, N): centre x, centre y, width, height in input pixels, scores |
| peer | in the file | `output0` (B, K, 6), as `detections` |
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from utils.boxes import cxcywh_to_xyxy
from utils.errors import UserError, shown

LAYOUTS = ("plain", "peer")  # peer: as Ultralytics' files have it


def output_names(layout: str, selects: bool) -> tuple[str, ...]:
    """Names of a file's outputs, in order; selects: whether it selects detections itself."""
    if layout == "peer":
        return ("output0",)
    return ("detections", "count") if selects else ("boxes", "scores")


def read_outputs(outputs: Sequence[Tensor], layout: str, selects: bool, classes: int,
                 path: Path) -> tuple[Tensor, Tensor]:
    """The outputs of a file -> boxes (B, N, 4) xyxy input pixels, scores (B, N, C), float32; detections that the file
    selected are candidates whose score is that of their class, and zero for all others.

    Raises `UserError` for outputs of other shapes.
    """
    wanted = (3, 1) if selects and layout == "plain" else (3,) if layout == "peer" else (3, 3)
    shapes = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in outputs]
    ranks = tuple(len(s) if isinstance(s, tuple) else 0 for s in shapes)
    kinds = {o.dtype.is_floating_point for o in outputs[:1] if isinstance(o, Tensor)}
    if ranks != wanted or kinds != {True}:
        raise _refusal(path, shapes, layout, selects, classes)
    first = outputs[0].float()
    if selects:
        if first.shape[2] != 6 or len(first) and first.shape[1] and not _are_labels(first[..., 5], classes):
            raise _refusal(path, shapes, layout, selects, classes)
        scores = first.new_zeros(*first.shape[:2], classes)
        return first[..., :4], scores.scatter_(2, first[..., 5:].long(), first[..., 4:5])
    if layout == "peer":
        if first.shape[1] != 4 + classes:
            raise _refusal(path, shapes, layout, selects, classes)
        rows = first.transpose(1, 2)  # (B, N, 4 + C)
        return cxcywh_to_xyxy(rows[..., :4]), rows[..., 4:].contiguous()
    if first.shape[2] != 4 or shapes[1] != (*first.shape[:2], classes) or not outputs[1].dtype.is_floating_point:
        raise _refusal(path, shapes, layout, selects, classes)
    return first, outputs[1].float()


def _are_labels(labels: Tensor, classes: int) -> bool:
    return bool(((labels >= 0) & (labels < classes)).all())  # NaN is none


def _refusal(path: Path, shapes: list, layout: str, selects: bool, classes: int) -> UserError:
    wanted = ("detections (B, K, 6)" if selects else f"output0 (B, {4 + classes}, N)" if layout == "peer" else
              f"boxes (B, N, 4) and scores (B, N, {classes})")
    return UserError(f"{path}: answers {shown(shapes)}, not {wanted}; export it again", "bad-output")

