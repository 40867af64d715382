"""Box conversions. Boxes are xyxy in pixels; readers, writers and heads alone use other forms."""

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) x1 y1 x2 y2 -> (..., 4) centre x, centre y, width, height, same unit."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) x1 y1 x2 y2, same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) IoU of boxes (N, 4) and (M, 4), xyxy, to the last bit that of `torchvision.ops.box_iou`; NaN of two boxes
    without area. It is here because `import torchvision` takes as long as importing PyTorch."""
    area_a, area_b = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (a, b))
    overlap = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])  # (N, M, 2)
    inner = overlap.clamp(min=0).prod(2)
    return inner / (area_a[:, None] + area_b - inner)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip xyxy pixel boxes (..., 4) to a frame of `height` x `width` pixels; returns a new tensor."""
    return torch.stack((boxes[..., 0].clamp(0, width), boxes[..., 1].clamp(0, height),
                        boxes[..., 2].clamp(0, width), boxes[..., 3].clamp(0, height)), -1)
