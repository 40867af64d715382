"""Colour jitter on uint8 images."""

import cv2
import numpy as np

HUES = 180  # OpenCV keeps the hue of 8-bit images in [0, 180)
# OpenCV 5 multiplies three channels at once in half the time of three planes, OpenCV 4 in eleven times as much.
AT_ONCE = int(cv2.__version__.split(".")[0]) >= 5
STRIP = 1 << 16  # pixels worked on at a time: all steps then find them in the core's own cache, a third of the time


def hsv_gains(rng: np.random.Generator, hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Multiplicative gains 1 + U(-1, 1) * amount for hue, saturation and value (YOLOv3 to v8)."""
    return tuple((1 + rng.uniform(-1, 1, 3) * (hue, saturation, value)).tolist())


def adjust_hsv(image: np.ndarray, gains: tuple[float, float, float], out: np.ndarray | None = None) -> np.ndarray:
    """Jitter an image (H, W, 3) BGR uint8 and return it as (H, W, 3) RGB uint8, in `out` where given.

    Hue wraps around, saturation and value stop at 255. Gains of 1 leave the colours alone. The way back from HSV gives
    RGB for free, which is why the order changes here.
    """
    height, width = image.shape[:2]
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if gains == (1.0, 1.0, 1.0):
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
    scale = scale_at_once if AT_ONCE and gains[0] * (HUES - 1) < 256 else scale_planes
    rows = max(STRIP // width, 1)
    strip = np.empty((min(rows, height), width, 3), np.uint8)
    for top in range(0, height, rows):
        hsv = strip[:height - top]
        cv2.cvtColor(image[top:top + rows], cv2.COLOR_BGR2HSV, dst=hsv)
        scale(hsv, gains)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out[top:top + rows])
    return out


def scale_at_once(hsv: np.ndarray, gains: tuple[float, float, float]) -> None:
    """Multiply hue, saturation and value of (H, W, 3) uint8 in place, by one product for all three.

    The hue is rounded down; up to 255 the way back from HSV wraps it around itself, further it stops.
    """
    hue, saturation, value = gains
    product = np.array([[hue, 0, 0, -0.499], [0, saturation, 0, 0], [0, 0, value, 0]], np.float32)
    cv2.transform(hsv, product, dst=hsv)


def scale_planes(hsv: np.ndarray, gains: tuple[float, float, float]) -> None:
    """As `scale_at_once`, for hues of any gain: plane by plane."""
    hue, saturation, value = cv2.split(hsv)
    cv2.LUT(hue, (np.arange(256) * gains[0] % HUES).astype(np.uint8), dst=hue)
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=gains[1])
    cv2.convertScaleAbs(value, dst=value, alpha=gains[2])
    cv2.merge((hue, saturation, value), dst=hsv)
