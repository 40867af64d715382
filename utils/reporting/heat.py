"""Heat maps over pictures, which are (H, W, 3) uint8 BGR."""

import cv2
import numpy as np


def draw_heat(image: np.ndarray, values: np.ndarray, low: float, high: float, share: float = 0.6) -> np.ndarray:
    """A copy of `image` under a heat map of `values` (h, w), blue for `low` and red for `high`.

    share: of the heat map in each pixel. Each value covers the cells that it stands for, interpolated between them.
    """
    height, width = image.shape[:2]
    heat = (values.astype(np.float32) - low) / max(high - low, 1e-12)
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((heat.clip(0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_JET)
    return cv2.addWeighted(np.ascontiguousarray(image), 1 - share, colours, share, 0)


def draw_weights(image: np.ndarray, weights: np.ndarray, point: tuple[float, float], share: float = 0.6) -> np.ndarray:
    """`draw_heat` from none to the greatest of `weights`, with a cross at `point` (x, y)."""
    picture = draw_heat(image, weights, 0.0, float(weights.max()), share)
    centre, size = (round(point[0]), round(point[1])), max(8, min(image.shape[:2]) // 16)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawMarker(picture, centre, colour, cv2.MARKER_CROSS, size, thickness)
    return picture
