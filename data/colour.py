"""Colour jitter on uint8 images."""

import cv2
import numpy as np

HUES = 180  # OpenCV keeps the hue of 8-bit images in [0, 180)
STRIP = 1 << 16  # pixels worked on at a time: all steps then find them in the core's own cache, a third of the time


def hsv_gains(rng: np.random.Generator, hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Multiplicative gains 1 + U(-1, 1) * amount for hue, saturation and value (YOLOv3 to v8)."""
    return tuple((1 + rng.uniform(-1, 1, 3) * (hue, saturation, value)).tolist())


def adjust_hsv(image: np.ndarray, gains: tuple[float, float, float], out: np.ndarray | None = None) -> np.ndarray:
    """Jitter an image (H, W, 3 or 4) BGR or BGRA uint8 and return it as (H, W, 3) RGB uint8, in `out` where given.

    Hue wraps around, saturation and value stop at 255. Gains of 1 leave the colours alone. The way back from HSV gives
    RGB for free, which is why the order changes here.
    """
    height, width = image.shape[:2]
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if gains == (1.0, 1.0, 1.0):
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB, dst=out)
    hue, saturation, value = gains
    # One product for all three, a third of the time of tables. The hue is rounded down, as tables do; up to 255 the way
    # back from HSV wraps it around itself.
    product = np.array([[hue, 0, 0, -0.499], [0, saturation, 0, 0], [0, 0, value, 0]], np.float32)
    table = None if hue * (HUES - 1) < 256 else (np.arange(256) * hue % HUES).astype(np.uint8)
    rows = max(STRIP // width, 1)
    strip = np.empty((min(rows, height), width, 3), np.uint8)
    for top in range(0, height, rows):
        hsv = strip[:height - top]
        cv2.cvtColor(image[top:top + rows], cv2.COLOR_BGR2HSV, dst=hsv)
        hues = None if table is None else cv2.LUT(cv2.extractChannel(hsv, 0), table)
        cv2.transform(hsv, product, dst=hsv)
        if hues is not None:
            cv2.insertChannel(hues, hsv, 0)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out[top:top + rows])
    return out
