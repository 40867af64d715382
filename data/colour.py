"""Colour jitter on uint8 images."""

import cv2
import numpy as np

HUES = 180  # OpenCV keeps the hue of 8-bit images in [0, 180)


def hsv_gains(rng: np.random.Generator, hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Multiplicative gains 1 + U(-1, 1) * amount for hue, saturation and value (YOLOv3 to v8)."""
    return tuple((1 + rng.uniform(-1, 1, 3) * (hue, saturation, value)).tolist())


def adjust_hsv(image: np.ndarray, gains: tuple[float, float, float]) -> np.ndarray:
    """Jitter an image (H, W, 3 or 4) BGR or BGRA uint8 and return it as (H, W, 3) RGB uint8.

    Hue wraps around, saturation and value stop at 255. Gains of 1 leave the colours alone. The way back from HSV gives
    RGB for free, which is why the order changes here.
    """
    if gains == (1.0, 1.0, 1.0):
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    hue, saturation, value = gains
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    if hue != 1.0:
        table = (np.arange(256) * hue % HUES).astype(np.uint8)
        cv2.LUT(planes[0], table, dst=planes[0])
    # A product with saturation is vectorised where a table look-up is not: a third of its time.
    cv2.convertScaleAbs(planes[1], dst=planes[1], alpha=saturation)
    cv2.convertScaleAbs(planes[2], dst=planes[2], alpha=value)
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB)
