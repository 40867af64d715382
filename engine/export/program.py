"""What an exported file computes, as one module to trace.

Legend: B images, H, W pixels of the input frame, N candidates of an image, C classes.
"""

import torch
from torch import Tensor, nn

from utils.boxes import xyxy_to_cxcywh


class Program(nn.Module):
    """images (B, 3, H, W) float32 RGB in [0, 1] -> boxes (B, N, 4) xyxy input pixels, scores (B, N, C), both float32.

    model: a fused Detector; half: its arithmetic is fp16, as its weights are; peer: one output instead, (B, 4 + C, N)
    of centre x, centre y, width, height in input pixels and the scores, the layout of Ultralytics' files.
    """

    def __init__(self, model: nn.Module, half: bool = False, peer: bool = False) -> None:
        super().__init__()
        self.model, self.dtype, self.peer = model, torch.float16 if half else torch.float32, peer

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        boxes, scores = self.model.decode(self.model(images.to(self.dtype)))
        if self.peer:
            return torch.cat((xyxy_to_cxcywh(boxes), scores), 2).transpose(1, 2)  # (B, 4 + C, N)
        return boxes, scores
