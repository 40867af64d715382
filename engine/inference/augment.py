"""Test-time augmentation: the same images at several scales and mirrored, all boxes given to the selection together.

Scales and mirrors are those of YOLOv5 and YOLOv7: as they are, at 0.83 mirrored left to right, and at 0.67.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from engine.inference.runtimes.base import Runtime
from utils.errors import UserError

PASSES = ((1.0, False), (0.83, True), (0.67, False))  # scale, mirrored

Predict = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def augmented(runtime: Runtime, flag: str = "--augment") -> Predict:
    """`Runtime.predict` with the boxes of all `PASSES`: boxes (B, N, 4) of the given frames, scores (B, N, C).

    Raises `UserError`, which begins with `flag`, for a model of one size, which takes no other, and for one that
    answers with a set, where no box of a pass would suppress that of another.
    """
    if runtime.fixed_size:
        raise UserError(f"{flag}: {runtime.path} takes images of {runtime.fixed_size[0]} x {runtime.fixed_size[1]} "
                        "pixels alone, so they cannot be scaled; drop the flag, or export with --dynamic", "fixed-size")
    if runtime.finds_sets:
        raise UserError(f"{flag}: {runtime.path} answers with a set, in which no box suppresses another, so that each "
                        "object would be found three times; drop the flag", "flag-without-effect")

    def predict(images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found = [runtime.predict(images, content) if scale == 1 and not mirrored else
                 _once(runtime, images, content, scale, mirrored) for scale, mirrored in PASSES]
        boxes, scores = zip(*found, strict=True)
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    return predict


def _once(runtime: Runtime, images: Tensor, content: Tensor | None, scale: float,
          mirrored: bool) -> tuple[Tensor, Tensor]:
    """The boxes of images (B, 3, H, W) that were scaled, and padded at the right and the bottom to a frame that the
    model takes. An image at the top left of its frame is mirrored within its own width."""
    height, width = images.shape[-2:]
    inner = max(round(height * scale), 1), max(round(width * scale), 1)
    turned = _mirrored(images, content) if mirrored else images
    is_bytes = images.dtype == torch.uint8
    small = interpolate(turned.to(runtime.device).float(), inner, mode="bilinear", align_corners=False, antialias=True)
    fill = torch.tensor(runtime.frame.fill, device=small.device).view(1, 3, 1, 1) / (1 if is_bytes else 255)
    step = runtime.frame.multiple
    below, right = -inner[0] % step, -inner[1] % step
    small = pad(small - fill, (0, right, 0, below)) + fill
    if is_bytes:
        small = small.round().clamp(0, 255).to(torch.uint8)
    ratio = torch.tensor((inner[1] / width, inner[0] / height))
    shown = None if content is None else (content * ratio.flip(0)).round().clamp(min=1).to(content.dtype)
    boxes, scores = runtime.predict(small, shown)
    boxes = boxes / ratio.to(boxes).repeat(2)
    if mirrored:
        widths = torch.full((len(images), 1), float(width)) if content is None else content[:, 1:]
        left = widths.to(boxes) - boxes[..., 2]
        boxes = torch.stack((left, boxes[..., 1], widths.to(boxes) - boxes[..., 0], boxes[..., 3]), -1)
    return boxes, scores


def _mirrored(images: Tensor, content: Tensor | None) -> Tensor:
    """Images mirrored left to right: whole frames, or what `content` (B, 2) says is image in them."""
    if content is None:
        return images.flip(-1)
    turned = images.clone()
    for image, (_, width) in zip(turned, content.tolist(), strict=True):
        image[..., :width] = image[..., :width].flip(-1)
    return turned
