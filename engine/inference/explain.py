"""What a model looks at, as heat maps over its images: the gate and the levels of a scale-sequence neck, and attention.

Legend: H, W pixels of the image, h, w cells of a map.
"""

from collections.abc import Sequence
from copy import deepcopy

import cv2
import numpy as np
import torch

from engine.inference.detections import ImageDetections
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from models.attention_maps import attention_maps, attention_rows
from models.gate_maps import gate_maps, neck_rows
from utils.errors import UserError
from utils.reporting.draw import draw_frame
from utils.reporting.heat import draw_heat, draw_weights
from utils.reporting.mosaic import titled
from utils.structures import Letterbox

WHITE = (255, 255, 255)


class Explainer:
    """Heat maps of one model, by name: `explainer(found)` runs it once more on an image, as a whole."""

    def __init__(self, runtime: Runtime, imgsz: Sequence[int] | None = None) -> None:
        """imgsz: as in `Runtime.choose_size`. Raises `UserError` for an exported file, and for a model that has neither
        a scale-sequence neck nor attention."""
        if not isinstance(runtime, TorchRuntime):
            raise UserError(f"--explain: the maps inside {runtime.path} cannot be read; give the checkpoint (.pt) that "
                            "it was exported from", "flag-without-effect")
        self.runtime, self.size = runtime, runtime.choose_size(imgsz)
        self.model = deepcopy(runtime.model)  # hooks would see the images that another thread runs at the time
        self.has_neck, self.attends = bool(neck_rows(self.model)), bool(attention_rows(self.model))
        if not (self.has_neck or self.attends):
            raise UserError(f"--explain: {runtime.path} has neither a scale-sequence neck nor attention units; take a "
                            "model such as yolov8n-assn or assd300", "flag-without-effect")

    def __call__(self, found: ImageDetections) -> dict[str, np.ndarray]:
        """Pictures (H + title, W, 3) BGR by the name of the map, with the detections in white.

        Attention is that of the best detection's centre, marked by a cross; of the image's centre where there is none.
        """
        placed, letterbox = self.runtime.prepare(found.image, self.size)
        placed, pictures = placed[0].to(self.runtime.device), {}
        if self.has_neck:
            for name, values in gate_maps(self.model, placed).items():
                values = in_image(values.cpu().numpy(), letterbox)
                low, high = float(values.min()), float(values.max())
                kind = "" if name.endswith("gate") else ": share of the level"
                pictures[name] = _finish(draw_heat(found.image, values, low, high), found,
                                         f"{name}{kind}, blue {low:.2f} to red {high:.2f}")
        if self.attends:
            point = shown_from(found)
            inside = letterbox.forward(torch.tensor([point * 2]))[0, :2].tolist()
            for name, weights in attention_maps(self.model, placed, tuple(inside)).items():
                weights = in_image(weights.float().cpu().numpy(), letterbox)
                pictures[name] = _finish(draw_weights(found.image, weights, point), found,
                                         f"{name}: attention from the cross, blue 0 to red {weights.max():.3f}")
        return pictures


def in_image(values: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """A map (h, w) of the model's frame, interpolated to the frame's pixels -> the part that is the image."""
    (height, width), (left, top) = letterbox.content, letterbox.pad
    frame = cv2.resize(values, letterbox.input[::-1], interpolation=cv2.INTER_LINEAR)
    return frame[top:top + height, left:left + width]


def shown_from(found: ImageDetections) -> tuple[float, float]:
    """The point whose attention is shown, in pixels of the image."""
    height, width = found.image.shape[:2]
    if not len(found):
        return width / 2, height / 2
    x1, y1, x2, y2 = found.boxes[0].tolist()
    return min(max((x1 + x2) / 2, 0), width - 1), min(max((y1 + y2) / 2, 0), height - 1)


def _finish(picture: np.ndarray, found: ImageDetections, title: str) -> np.ndarray:
    for box in found.boxes.tolist():
        draw_frame(picture, box, WHITE)
    return titled(picture, title)
